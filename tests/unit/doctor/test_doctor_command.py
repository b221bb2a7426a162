"""The command tanren doctor: its exit codes, its two outputs, and that it imports no torch itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tanren.common.doctor import Finding, Subject, Verdict, run_doctor
from tanren.common.doctor import _examination as examination
from tanren.common.doctor import _subject as subject_module
from tanren.common.doctor._examination import sections
from tanren.common.doctor._nvml import NOT_READ, Reading

from .recorded_gpus import H100, reading

Command = Callable[..., Any]
TANREN = "tanren.common.cli"


@pytest.fixture
def another_torch(tmp_path: Path) -> str:
    """Return a folder with an empty module torch: a fault that must be found."""
    (tmp_path / "torch.py").write_text("", encoding="utf-8")
    return str(tmp_path)


def test_json_is_alone_on_standard_output_and_the_rows_on_standard_error(command: Command, another_torch: str) -> None:
    path = ":".join([*(entry for entry in sys.path if entry.endswith("src")), another_torch])
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
    assert not [name for name in rows if name.startswith("import ")]
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
    ("verdict", "code"), [(Verdict.OK, 0), (Verdict.WARNING, 0), (Verdict.UNKNOWN, 1), (Verdict.REFUSED, 1)]
)
def test_what_is_refused_or_not_known_ends_with_exit_code_1(
    cpu_subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: Verdict,
    code: int,
) -> None:
    def found(_: Subject) -> Iterator[Finding]:
        yield Finding("steel", "glows", "hot", Verdict.OK)
        yield Finding("anvil", "cracked", "whole", verdict, "take another")

    monkeypatch.setattr(examination, "check_place", found)
    monkeypatch.setattr(examination, "MACHINE", {})
    monkeypatch.setattr(examination, "REMOTE", {})
    monkeypatch.setattr(examination, "CONTENTS", {})
    monkeypatch.setattr(examination, "PROCESS", {})
    assert run_doctor(expect_env=None, wants_gpu=True, as_json=True) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
    assert run_doctor(expect_env="default", wants_gpu=True, as_json=False) == code
    out = capsys.readouterr().out
    assert "ok       steel" in out
    assert ("fix: take another" in out) == (verdict is not Verdict.OK)


def test_the_first_rows_come_before_the_gpus_are_asked_and_the_network_last_but_for_proofs(
    gpu_subject: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def nvml() -> Reading:
        asked.append("NVML")
        return reading("580", H100)

    monkeypatch.setattr(subject_module, "read_nvml", nvml)
    headings: list[str] = []
    for heading, findings in sections(replace(gpu_subject("train"), reading=NOT_READ)):
        assert bool(asked) == ("Machine" in headings)
        headings.append(heading)
        if heading in ("Environment", "Machine", "GPUs"):
            rows = [finding.what for finding in findings]
            assert ("GPU 0" in rows) == (heading == "GPUs")
    assert asked == ["NVML"]
    assert headings[:3] == ["Environment", "Machine", "GPUs"]
    assert headings[-2:] == ["Recipe", "Proofs"]


def test_a_recipe_is_looked_at_and_a_broken_one_is_the_users_mistake(command: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "gone.jsonl"\n', encoding="utf-8")
    done = command(TANREN, "doctor", str(recipe), "--env", "train", "--no-gpu")
    assert done.code == 1
    assert f"ok       {'model':<28} builtin:tiny-qwen3" in done.out
    assert f"refused  {'data':<28} gone.jsonl: no such file" in done.out
    assert done.heavy == ""
    recipe.write_text("x = [", encoding="utf-8")
    done = command(TANREN, "doctor", str(recipe))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: the recipe {recipe} is not valid TOML")


def test_a_python_that_the_lock_was_not_made_for_is_refused(cpu_subject: Subject) -> None:
    [finding] = examination.check_python(replace(cpu_subject, python="3.14.0"))
    assert (finding.verdict, finding.needed) == (Verdict.REFUSED, ">=3.11,<3.14")


def test_a_finding_that_is_not_ok_must_say_how_to_put_it_right() -> None:
    with pytest.raises(AssertionError, match="without a fix"):
        Finding("anvil", "cracked", "whole", Verdict.REFUSED)
