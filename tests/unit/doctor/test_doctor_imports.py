"""The doctor on imports: each in its own process, with its error, its time limit, and who may refuse without a GPU."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Finding, Subject, Verdict
from tanren.common.doctor import _imports as imports
from tanren.common.doctor._child import run, run_all
from tanren.common.doctor._finding import worst

from .conftest import by_name

Make = Callable[[str], Subject]
NO_GPU = "raise NotImplementedError('Unsloth cannot find any torch accelerator? You need a GPU.')\n"


@pytest.fixture
def check(gpu_subject: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Return a check of the imports of a stack that is written here."""

    def run_checks(modules: dict[str, str], wants_gpu: bool = True) -> dict[str, Finding]:
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr(imports, "GPU_STACK", dict.fromkeys(modules, ()))
        subject = gpu_subject("train")
        variables = {**subject.variables, "PYTHONPATH": str(tmp_path)}
        return by_name(imports.check_imports(replace(subject, variables=variables, wants_gpu=wants_gpu)))

    return run_checks


Check = Callable[..., dict[str, Finding]]


def test_what_can_be_imported_is_ok_whatever_it_prints(check: Check) -> None:
    rows = check({"torch": "", "loud": "print('loading', end='')\n"})
    assert worst(rows.values()) is Verdict.OK, rows
    assert rows["import loud"].found.endswith(" s")


def test_an_import_that_fails_is_refused_with_its_own_words(check: Check) -> None:
    message = "libcudart.so.12: cannot open shared object file: No such file or directory"
    rows = check({"torch": "", "vllm": f"raise ImportError({message!r})\n"})
    assert (rows["import vllm"].verdict, rows["import vllm"].found) == (Verdict.REFUSED, f"ImportError: {message}")
    assert rows["import torch"].verdict is Verdict.OK


def test_an_import_that_kills_its_process_is_refused_with_the_signal(check: Check) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    rows = check({"torch": "", "vllm": code})
    assert rows["import vllm"].found == f"ended by signal {int(signal.SIGSEGV)}"


def test_an_import_that_hangs_is_refused_after_the_time_limit(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LIMIT", 1.0)
    rows = check({"torch": "", "vllm": "import time\ntime.sleep(60)\n"})
    assert rows["import vllm"].verdict is Verdict.REFUSED
    assert rows["import vllm"].found == "not done after 1 s"


def test_a_name_that_the_module_loads_late_is_asked_for(
    gpu_subject: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("", encoding="utf-8")
    code = "def __getattr__(name):\n    raise ImportError('no module named ' + name)\n"
    (tmp_path / "trl.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(imports, "GPU_STACK", {"torch": (), "trl": ("SFTTrainer",)})
    subject = gpu_subject("train")
    variables = {**subject.variables, "PYTHONPATH": str(tmp_path)}
    rows = by_name(imports.check_imports(replace(subject, variables=variables)))
    assert rows["import trl"].found == "ImportError: no module named SFTTrainer"


@pytest.mark.parametrize(
    ("name", "code", "wants_gpu", "verdict"),
    [
        ("unsloth", NO_GPU, False, Verdict.OK),
        ("unsloth", NO_GPU, True, Verdict.REFUSED),
        ("unsloth", "raise ImportError('Unsloth: Please install unsloth_zoo')\n", False, Verdict.REFUSED),
        ("vllm", NO_GPU, False, Verdict.REFUSED),
    ],
)
def test_only_unsloths_own_message_is_excused_and_only_without_a_gpu(
    check: Check, name: str, code: str, wants_gpu: bool, verdict: Verdict
) -> None:
    rows = check({"torch": "", name: code}, wants_gpu=wants_gpu)
    assert rows[f"import {name}"].verdict is verdict
    assert ("needs a GPU" in rows[f"import {name}"].found) == (verdict is Verdict.OK)


def test_the_time_limit_ends_what_the_child_started_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    answer = run(["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], limit=0.5)
    assert answer.code is None
    time.sleep(0.1)
    state = Path("/proc") / pid.read_text().strip() / "stat"
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_leaving_the_doctor_early_ends_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    quick = f"import pathlib, time\npid = pathlib.Path({str(pid)!r})\nwhile not (pid.exists() and pid.stat().st_size): time.sleep(0.01)"
    commands = {name: [sys.executable, "-c", code] for name, code in (("quick", quick), ("slow", slow))}
    answers = run_all(commands, limit=60, at_once=2)
    assert next(answers)[0] == "quick"
    begun = time.monotonic()
    answers.close()
    assert time.monotonic() - begun < 50  # the slow one would sleep for 60
    assert not (Path("/proc") / pid.read_text()).exists()  # not even to be waited for


def test_a_program_that_cannot_be_started_answers_with_the_reason() -> None:
    answer = run(["/nonexistent/nvcc", "--version"])
    assert (answer.code, answer.text) == (126, "/nonexistent/nvcc: No such file or directory")
