"""A controlled run that was killed goes on with its decision log, and with nothing else; what would be done is told beforehand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.command import run_command
from tanren.common.run import resume_command
from tanren.evaluate.cli import _main

from .conftest import ROOT, Control, log_of

# One process imports the libraries; each run is a fork of it, killed for good where it is about to open a file for the n-th time.
KILLS = """
import os, signal, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
import tanren.evaluate.control._job, tanren.evaluate.control._model, tanren.evaluate.generation, tanren.evaluate.report
import matplotlib.figure, peft
from tanren.common.command import run_command
from tanren.evaluate.cli import _main


def run(*where, part="", mode="a", times=0):
    child = os.fork()
    if child == 0:
        seen = []

        def watch(name, arguments):
            if name == "open" and part and part in str(arguments[0]) and arguments[1] == mode:
                seen.append(name)
                if len(seen) == times:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        os._exit(run_command(_main, ["control", *sys.argv[1:], *where]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


log = Path("killed/control/decisions.jsonl")
codes = [run("--run-dir", "killed", part="decisions.jsonl", times=4)]  # its fourth hour is decided, and not written
there = len(log.read_text().splitlines())
log.write_bytes(log.read_bytes()[:-99])  # of the third hour only the first week's decision is whole
codes.append(run("--resume", "killed", part=".svg.", mode="w", times=1))  # all is decided, and no plot there
codes.append(run("--resume", "killed"))
print(f"\\n{codes} {there}")
"""
DRAWN = ["--samples", "3", "--temperature", "2", "--top-p", "1", "--prompt", "short", "--max-new-tokens", "4"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder to work in."""
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    """Run `evaluate control`, and return its exit code."""
    return run_command(_main, ["control", *arguments])


def undone(folder: Path) -> Path:
    """Make a run as one that was killed after 40 decisions."""
    (folder / "summary.json").unlink()
    lines = (folder / "control" / "decisions.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "control" / "decisions.jsonl").write_bytes(b"".join(lines[:40]))
    return folder


def test_a_killed_run_goes_on_and_ends_as_one_that_never_was(
    here: Path, scripted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--generate", "2", "--policy", str(scripted("[0]", "[2]", "[7]")), *DRAWN]
    done = subprocess.run(
        [sys.executable, "-c", KILLS, *arguments], cwd=here, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1] == "[-9, -9, 0] 6", done.stderr
    assert "5 of 60 decisions are in the log already" in done.stderr
    assert done.stderr.count("] load model: ") == 2  # with all decisions there nobody is asked
    assert run(*arguments, "--run-dir", "straight") == 0
    for name in ("control/decisions.jsonl", "config.toml"):
        assert Path("killed", name).read_bytes() == Path("straight", name).read_bytes()
    figures = [json.loads(Path(folder, "summary.json").read_text())["control"] for folder in ("killed", "straight")]
    assert figures[0] == figures[1]
    assert not list(Path("killed").rglob("*partial*"))
    capsys.readouterr()
    assert run(*arguments, "--resume", "killed") == 2
    assert "this run is finished" in capsys.readouterr().err


def test_the_recorded_command_line_resumes_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--generate", "2", "--seed", "3", "--policy", "greedy-rule", "--run-dir", "run", "--json") == 0
    before = json.loads(capsys.readouterr().out)
    program, *arguments = resume_command(undone(Path("run")), verify=False)
    assert Path(program).name == "evaluate"
    assert run_command(_main, [*arguments, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == before
    assert "40 of 60 decisions are in the log already" in told.err
    assert len(log_of(Path("run"))) == 60


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--initial-kwh", "100"], "control.initial_kwh: then 150.0, now 100.0"),
        (["--policy", "always-2"], 'control.policy: then "always-1", now "always-2"'),
        (["--run-dir", "other"], "--run-dir other has no effect: --resume goes on in run"),
        (["weeks/b.csv"], "a.csv is not among the files now; b.csv was not among the files then"),
    ],
)
def test_a_run_goes_on_only_with_its_own_settings(
    here: Path,
    weather_file: Callable[[str, int], Path],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    first = str(weather_file("a", 0))
    weather_file("b", 1)
    assert run(first, "--policy", "always-1", "--run-dir", "run") == 0
    Path("run/summary.json").unlink()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != "log.txt"}
    asked = [
        *arguments,
        *([] if "--policy" in arguments else ["--policy", "always-1"]),
        *([] if len(arguments) == 1 else [first]),
    ]
    assert run(*asked, "--resume", "run") == 2
    assert told in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture
def weather_file(here: Path) -> Callable[[str, int], Path]:
    """Return a function that writes a weather of the pack's own as a file."""
    from itertools import islice

    from tasks.tes.generate import generated
    from tasks.tes.weather import CO2, LOAD, TIME

    def write(name: str, number: int) -> Path:
        weather = next(islice(generated("heldout", 0), number, None))
        lines = [f"{weather.time(hour)},{weather.co2[hour]},{weather.load[hour]}" for hour in range(96)]
        path = Path("weeks", f"{name}.csv")
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([f"{TIME},{CO2},{LOAD}", *lines]) + "\n", encoding="utf-8")
        return path

    return write


def test_weather_may_lie_elsewhere_by_now_but_not_be_another(
    weather_file: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(weather_file("a", 0)), "--policy", "always-1", "--run-dir", "run") == 0
    Path("run/summary.json").unlink()
    shutil.copytree("weeks", "moved")
    weather_file("a", 1)
    assert run("weeks/a.csv", "--policy", "always-1", "--resume", "run") == 2
    assert "a.csv has another content now" in capsys.readouterr().err
    assert run("moved/a.csv", "--policy", "always-1", "--resume", "run") == 0
    assert "30 of 30 decisions are in the log already" in capsys.readouterr().err


def test_another_model_under_the_same_name_is_refused(
    here: Path, scripted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted("[1]")
    arguments = ["--generate", "2", "--policy", str(model), "--prompt", "short", "--max-new-tokens", "4"]
    assert run(*arguments, "--run-dir", "run") == 0
    undone(Path("run"))
    shutil.rmtree(model)
    scripted("[2]").rename(model)
    assert run(*arguments, "--resume", "run") == 2
    told = capsys.readouterr().err
    assert "the model is another one than in that run (model: then {" in told
    template = json.loads(Path("run/environment.json").read_text())
    Path("run/environment.json").write_text(json.dumps(template | {"chat_template_hash": "0" * 16}))
    assert run(*arguments, "--resume", "run") == 2
    assert "chat_template_hash: then '0000000000000000', now '" in capsys.readouterr().err
    assert len(log_of(Path("run"))) == 40


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda line: line.replace('"energy_kwh": 150.0', '"energy_kwh": 151.0'),
            "(energy_kwh: then 151.0, now 150.0)",
        ),
        (
            lambda line: line.replace('"action": 1', '"action": 3'),
            "does not come to the same again (carbon_kg_co2: then",
        ),
        (lambda line: line[:-9], "decisions.jsonl:1: not a decision"),
    ],
)
def test_a_log_that_was_changed_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str], told: str
) -> None:
    arguments = ["--generate", "1", "--policy", "always-1"]
    assert run(*arguments, "--run-dir", "run") == 0
    Path("run/summary.json").unlink()
    log = Path("run/control/decisions.jsonl")
    first, *others = log.read_text("utf-8").splitlines()
    log.write_text("\n".join([change(first), *others]) + "\n", encoding="utf-8")
    assert run(*arguments, "--resume", "run") == 2
    assert told in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_asked_and_writes_nothing(
    command: Callable[..., Any], here: Path, weather_file: Callable[[str, int], Path]
) -> None:
    files = [str(weather_file("a", 0)), str(weather_file("b", 1))]
    model = ["--policy", "builtin:tiny-qwen3", "--samples", "3", "--max-new-tokens", "9"]
    done = command("tanren.evaluate.cli", "control", *files, *model, "--dry-run", "--json", folder=here)
    assert (done.code, done.heavy) == (0, ""), done.err
    found = json.loads(done.out)
    plan = found["plan"]
    assert plan["weeks"] == ["a: 30 decisions", "b: 30 decisions"]
    assert (plan["decisions"], plan["model calls"], plan["most new tokens"]) == (60, 180, 1620)
    assert plan["beside it"] == ["always-0", "always-1", "always-2", "always-3", "greedy-rule", "optimal"]
    assert (plan["model"], plan["run directory"]) == ("builtin:tiny-qwen3 (tiny: tiny-qwen3)", "runs/control-<time>")
    assert plan["engine"] == "transformers on auto, drawn, temperature 0.8, top_p 0.95"
    assert found["origins"]["control.samples"] == "flag --samples"
    assert sorted(path.name for path in here.iterdir()) == ["weeks"]
    told = command("tanren.evaluate.cli", "control", *files, "--policy", "optimal", "--dry-run", folder=here)
    assert "# model calls: 0\n" in told.out
    assert "too few for an interval" in told.out


def test_a_dry_run_of_a_resumed_run_counts_what_is_left(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--generate", "2", "--policy", "builtin:tiny-qwen3", "--prompt", "short", "--max-new-tokens", "2"]
    assert run(*arguments, "--run-dir", "run") == 0
    undone(Path("run"))
    capsys.readouterr()
    assert run(*arguments, "--resume", "run", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["decided already"], plan["model calls"], plan["run directory"]) == (40, 20, "run")


def test_the_object_says_where_log_plots_and_report_are(control: Control) -> None:
    found = control("--generate", "1", "--policy", "always-1", "--run-dir", "run")
    assert all(Path(found[key]).is_file() for key in ("decision_log", "report"))
    assert [Path(path).is_file() for path in found["plots"]] == [True]
