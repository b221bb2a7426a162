"""The runner of pixi.toml's tasks without pixi: parsing, order, refusals, exit codes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import index_run
import pytest
from index_run import Task
from stop import Stop

from .conftest import ROOT, Workspace

MANIFEST = """
[tasks]
first = { cmd = "python record.py first", description = "the first" }
second = { cmd = "python record.py second", depends-on = ["first"], env = { COLOUR = "red" } }
third = { cmd = 'python record.py "two words"', depends-on = ["first", "second"] }
both = { depends-on = ["first", "second"] }
fails = "python -c 'raise SystemExit(7)'"
after-failure = { cmd = "python record.py never", depends-on = ["fails"] }
"""
RECORD = """
import json, os, sys
names = ("COLOUR", "VIRTUAL_ENV", "PIXI_PROJECT_ROOT", "PIXI_ENVIRONMENT_NAME")
print(json.dumps([sys.argv[1:], {n: os.environ[n] for n in names if n in os.environ}]))
"""


@pytest.fixture
def tasks(workspace: Workspace) -> Workspace:
    """A workspace with a manifest, and this process's own environment standing in for .venv."""
    workspace.manifest(MANIFEST.replace("python -c 'raise SystemExit(7)'", "python fail.py"))
    (workspace.root / "record.py").write_text(RECORD)
    (workspace.root / "fail.py").write_text("raise SystemExit(7)\n")
    venv = workspace.root / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(sys.prefix, "bin", "python").resolve())
    (venv / index_run.MARKER).write_text(f"{venv}\n")
    return workspace


def run(workspace: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    return workspace.pixiw("run", *arguments, PIXIW_MODE="index")


def test_dependencies_run_first_once_and_in_order(tasks: Workspace) -> None:
    done = run(tasks, "third", "--flag", "a b", "-e", "x")
    first, second, third = done.stdout.splitlines()
    assert first.startswith('[["first"]')
    assert second.startswith('[["second"], {"COLOUR": "red"')
    assert third.startswith('[["two words", "--flag", "a b", "-e", "x"]')
    assert "COLOUR" not in third


def test_a_task_sees_the_environment_that_pixi_would_give(tasks: Workspace) -> None:
    line = run(tasks, "-e", "default", "first").stdout
    assert f'"VIRTUAL_ENV": "{tasks.root / ".venv"}"' in line
    assert f'"PIXI_PROJECT_ROOT": "{tasks.root}"' in line
    assert '"PIXI_ENVIRONMENT_NAME": "default"' in line


def test_variables_of_the_workspace_are_set_and_what_only_pixi_can_set_is_refused(tasks: Workspace) -> None:
    tasks.manifest('[activation.env]\nPYTHONNOUSERSITE = "1"\n[tasks]\nshow = "python show.py"\n')
    (tasks.root / "show.py").write_text("import os; print(os.environ['PYTHONNOUSERSITE'])")
    assert run(tasks, "show").stdout == "1\n"
    tasks.manifest('[activation.env]\nA = "$CONDA_PREFIX/a"\n[tasks]\nshow = "python show.py"\n')
    done = run(tasks, "show")
    assert done.returncode == 2
    assert "[activation]" in done.stderr


def test_a_task_without_a_command_runs_what_it_depends_on(tasks: Workspace) -> None:
    assert len(run(tasks, "both").stdout.splitlines()) == 2
    assert run(tasks, "both", "argument").returncode == 2


def test_exit_codes_are_handed_through_and_end_the_chain(tasks: Workspace) -> None:
    assert run(tasks, "fails").returncode == 7
    done = run(tasks, "after-failure")
    assert done.returncode == 7
    assert done.stdout == ""


def test_an_unknown_task_names_the_nearest_and_lists_all(tasks: Workspace) -> None:
    done = run(tasks, "secnod")
    assert done.returncode == 2
    assert "did you mean `second`?" in done.stderr
    assert "the first" in done.stderr


def test_programs_of_the_environment_run_as_under_pixi(tasks: Workspace) -> None:
    assert run(tasks, "python", "-c", "print(6 * 7)").stdout == "42\n"


@pytest.mark.parametrize(
    "arguments", [["-e", "b300"], ["--environment", "b300"], ["--environment=b300"], ["-eb300"], ["-e"]]
)
def test_another_environment_needs_pixi(tasks: Workspace, arguments: list[str]) -> None:
    done = run(tasks, *arguments, *(["first"] if len(arguments[0]) > 2 or len(arguments) > 1 else []))
    assert done.returncode == 2
    assert "needs pixi" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["install"], ["shell", "-e", "default"], ["run", "--clean-env", "first"]])
def test_what_only_pixi_can_do_is_refused_with_a_way_to_get_it(tasks: Workspace, arguments: list[str]) -> None:
    done = tasks.pixiw(*arguments, PIXIW_MODE="index")
    assert done.returncode == 2
    assert "needs pixi" in done.stderr
    assert "github.com/prefix-dev/pixi" in done.stderr


@pytest.mark.parametrize("command", ["a | b", "a && b", "echo $HOME", "rm *.txt", "a > b", "X=1 a", "a {{ arg }}"])
def test_shell_syntax_is_refused_not_guessed(command: str) -> None:
    with pytest.raises(Stop, match="only pixi runs it"):
        index_run.read_task("t", {"cmd": command})


def test_unknown_keys_and_dependencies_with_arguments_are_refused() -> None:
    with pytest.raises(Stop, match="outputs"):
        index_run.read_task("t", {"cmd": "a", "outputs": ["b"]})
    with pytest.raises(Stop, match="depends-on"):
        index_run.read_task("t", {"cmd": "a", "depends-on": [{"task": "b", "environment": "c"}]})


def test_circles_and_missing_dependencies_are_named() -> None:
    tasks = {"a": Task("a", depends_on=("b",)), "b": Task("b", depends_on=("a",))}
    with pytest.raises(Stop, match="a -> b -> a"):
        index_run.order(tasks, "a")
    with pytest.raises(Stop, match="'a' depends on 'c'"):
        index_run.order({"a": Task("a", depends_on=("c",))}, "a")


def test_every_task_of_the_workspace_runs_without_pixi() -> None:
    tasks = index_run.read_tasks(ROOT / "pixi.toml")
    assert all(index_run.order(tasks, name) for name in tasks)
    assert tasks["test"].command[-2:] == ("-m", "not gpu and not locks")


def test_an_interrupt_reaches_the_task_and_is_its_exit_code(tasks: Workspace) -> None:
    (tasks.root / "fail.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(30)\n")
    command = [sys.executable, str(tasks.root / "envs" / "index_run.py"), "run", "after-failure"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.wait(timeout=25) == 130  # it would sleep for 30


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / "mine.txt").write_text("keep")
    with pytest.raises(Stop, match="not made by pixiw"):
        index_run.ensure_venv(venv)
    assert (venv / "mine.txt").read_text() == "keep"


def test_a_half_made_environment_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / index_run.MARKER).write_text("unfinished\n")
    (venv / "rubbish").touch()
    made: list[list[str]] = []

    def make(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        made.append([str(part) for part in command])
        (venv / "bin").mkdir()
        (venv / "bin" / "python").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", make)
    index_run.ensure_venv(venv)
    index_run.ensure_venv(venv)  # complete now: not a second time
    assert len(made) == 1
    assert index_run.complete(venv)
    assert not (venv / "rubbish").exists()
