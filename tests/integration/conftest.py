"""Runs of the real commands: in this process where that shows the same, as a process of its own where it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .grpo_runs import write_work

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
TINY = """
name = "tiny"

[model]
name = "builtin:tiny-qwen3"

[data]
file = "rows.jsonl"

[train]
max_steps = 6
rows_per_step = 4

[lora]
dropout = 0.1

[checkpoint]
every_steps = 3

[evaluation]
enabled = false

[tracking]
mlflow = false
"""

Command = Callable[..., int]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe for a tiny model and its data."""
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"add {n} and 1"},
                {"role": "assistant", "content": f"it is {n + 1}"},
            ]
        }
        for n in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    return tmp_path


@pytest.fixture
def train_sft() -> Command:
    """Run train-sft in this process; return its exit code."""
    from tanren.common.command import run_command
    from tanren.sft.cli import _main

    return lambda *arguments: run_command(_main, [str(argument) for argument in arguments])


def start(name: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command as a process of its own, its standard error readable."""
    return subprocess.Popen(
        [SCRIPTS / name, *map(str, arguments)],
        cwd=cwd,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PIXI_PROJECT_ROOT": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )


def lines_until(process: subprocess.Popen[str], words: str) -> Iterator[str]:
    """Yield the lines of standard error up to and with the first that holds `words`."""
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if words in line:
            return
    pytest.fail(f"the process ended without saying {words!r}")


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Return the numbers of each step that must repeat (times may differ)."""
    from tanren.common.run import read_steps

    return [
        {key: value for key, value in step.items() if key in ("step", "loss", "grad_norm", "lr", "tokens")}
        for step in read_steps(run / "metrics.jsonl")
    ]


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the recipe letters.toml of train-grpo and its task pack."""
    write_work(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    return tmp_path


@pytest.fixture
def train_grpo(letters: Path) -> Callable[..., int]:
    """Run train-grpo in this process; return its exit code."""
    from tanren.common.command import run_command
    from tanren.grpo.cli import _main

    return lambda *arguments: run_command(_main, [str(argument) for argument in arguments])
