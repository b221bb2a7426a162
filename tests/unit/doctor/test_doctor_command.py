"""The command tanren doctor: its exit codes, its two outputs, and that it imports no torch itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tanren.common.doctor import Finding, Subject, Verdict, run_doctor
from tanren.common.doctor import _examination as examination
from tanren.common.doctor._imports import CPU_STACK, GPU_STACK

Command = Callable[..., Any]
TANREN = "tanren.common.cli"


@pytest.fixture
def stand_ins(tmp_path: Path) -> str:
    """Return a folder with empty modules in place of the stack: quick to import, and a fault that must be found."""
    for name, names in GPU_STACK.items():
        code = "".join(f"{attribute} = None\n" for attribute in names)
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"class version:\n    cuda = None\n{code}", encoding="utf-8")
    return str(tmp_path)


def test_json_is_alone_on_standard_output_and_the_rows_on_standard_error(command: Command, stand_ins: str) -> None:
    path = ":".join([*(entry for entry in sys.path if entry.endswith("src")), stand_ins])
    name = os.environ.get("PIXI_ENVIRONMENT_NAME", "default")  # whichever the tests run in
    arguments = ["doctor", "--expect-env", name, "--no-gpu", "--json"]
    here = {"PIXI_ENVIRONMENT_NAME": name, "VIRTUAL_ENV": sys.prefix, "CONDA_PREFIX": sys.prefix}
    done = command(TANREN, *arguments, PYTHONPATH=path, **here)
    answer = json.loads(done.out)
    assert (answer["environment"], answer["verdict"], done.code) == (name, "refused", 1), done.err
    assert all(set(row) == {"what", "found", "needed", "verdict", "fix"} for row in answer["findings"])
    rows = {row["what"]: row for row in answer["findings"]}
    assert rows["environment"]["verdict"] == "ok"
    assert rows["module torch"]["verdict"] == "refused"
    assert {f"import {name}" for name in CPU_STACK} < rows.keys()
    assert "refused  module torch" in done.err
    assert done.heavy == ""


def test_an_unknown_environment_is_the_users_mistake_with_the_nearest_name(command: Command) -> None:
    done = command(TANREN, "doctor", "--expect-env", "b30", "--json")
    assert (done.code, done.out) == (2, "")
    assert "there is no environment 'b30'" in done.err
    assert "did you mean 'b300'?" in done.err
    assert "Traceback" not in done.err


def test_outside_a_workspace_there_is_one_message(command: Command, tmp_path: Path) -> None:
    done = command(TANREN, "doctor", folder=tmp_path, PIXI_PROJECT_ROOT="")
    assert done.code == 2
    assert done.err.startswith("error: there is no workspace: ")
    assert done.err.count("\n") == 1


def test_a_gpu_environment_asked_for_in_the_cpu_one_is_refused_at_once(command: Command) -> None:
    done = command(TANREN, "doctor", "--expect-env", "b300", "--no-gpu", PIXI_ENVIRONMENT_NAME="default")
    assert done.code == 1
    assert "refused  environment" in done.out
    assert "fix: ./pixiw run -e b300 doctor" in done.out
    assert "import vllm" not in done.out


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.OK, 0), (Verdict.WARNING, 0), (Verdict.UNKNOWN, 0), (Verdict.REFUSED, 1)]
)
def test_only_a_refusal_ends_with_exit_code_1(
    cpu_subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: Verdict,
    code: int,
) -> None:
    def found(_: Subject, tiers: object) -> Iterator[Finding]:
        yield Finding("steel", "glows", "hot", Verdict.OK)
        yield Finding("anvil", "cracked", "whole", verdict, "take another")

    monkeypatch.setattr(examination, "examine", found)
    assert run_doctor(expect_env=None, wants_gpu=True, as_json=True) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
    assert run_doctor(expect_env="default", wants_gpu=True, as_json=False) == code
    out = capsys.readouterr().out
    assert "ok       steel" in out
    assert ("fix: take another" in out) == (verdict is not Verdict.OK)


def test_a_python_that_the_lock_was_not_made_for_is_refused(cpu_subject: Subject) -> None:
    from dataclasses import replace

    [finding] = examination.check_python(replace(cpu_subject, python="3.14.0"))
    assert (finding.verdict, finding.needed) == (Verdict.REFUSED, ">=3.11,<3.14")


def test_a_finding_that_is_not_ok_must_say_how_to_put_it_right() -> None:
    with pytest.raises(AssertionError, match="without a fix"):
        Finding("anvil", "cracked", "whole", Verdict.REFUSED)
