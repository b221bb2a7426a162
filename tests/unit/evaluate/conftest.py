"""Rows and predictions of a small task, write a word in capitals; runs of the pack `structured` to look at; a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tanren.common.run import RunDirectory
from tanren.common.task_contract import Message, Row
from tanren.common.task_packs import load_pack
from tanren.evaluate.listing import write_candidates
from tanren.evaluate.predictions import Prediction, write_predictions, write_tasks
from tests.browser import Browser, headless

WORDS = ("ash", "oak", "birch", "maple")


@pytest.fixture
def rows() -> list[Row]:
    return [
        Row(word, (Message("user", word),), word.upper(), "short" if len(word) < 5 else "long", word.upper())
        for word in WORDS
    ]


@pytest.fixture(scope="session")
def predict() -> Callable[..., Prediction]:
    """Return a function that makes a prediction of an id and a completion."""

    def prediction(identity: str, completion: str = "", *, cut: bool = False) -> Prediction:
        return Prediction(identity, completion, "0" * 16, "length" if cut else "stop", 3, 2)

    return prediction


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a real browser without a window, one for all tests."""
    with headless() as found:
        yield found


# What a page must not run, fetch or stumble over, whatever it is put into.
HOSTILE = '</script><script>window.owned = 1</script><img src="http://example.invalid/x.png" onerror="window.owned = 2"><!--\u2028'


def _answer(row: Row, change: str) -> str:
    if change == "hostile":
        return HOSTILE
    if change == "value":  # parses, with another value
        return row.reference.replace("a", "e", 1)
    if change == "fenced":
        return f"Here you are:\n```{row.group}\n{row.reference}\n```\n"
    return row.reference if change == "right" else row.reference[: len(row.reference) // 2]


def write_run(
    folder: Path,
    changes: Mapping[str, Sequence[Sequence[str]]],
    *,
    rows: int = 20,
    evaluation: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Write a run of `evaluate` on `rows` items of the pack `structured`.

    `changes`: for each candidate its samples, each a cycle of what is done to the expected answers: right, value, fenced,
    hostile, cut.
    """
    options = {"heldout_rows": rows, "size": "tiny", "strings": "plain"}
    items = load_pack("structured", options).rows("heldout")
    run = RunDirectory(folder)
    for name, samples in changes.items():
        predictions = [
            Prediction(
                row.id, _answer(row, cycle[i % len(cycle)]), "0" * 16,
                "length" if cycle[i % len(cycle)] == "cut" else "stop", 3, 2, sample,
            )
            for i, row in enumerate(items)
            for sample, cycle in enumerate(samples)
        ]  # fmt: skip
        write_predictions(run.evaluation / name / "predictions.jsonl", predictions)
    write_tasks(run.evaluation / "tasks.jsonl", items)
    write_candidates(run.evaluation, [{"name": name} for name in changes])
    run.config.write_text(
        'name = "made"\n[task]\nname = "structured"\n[task.options]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items()),
        encoding="utf-8",
    )
    run.write_json(run.environment, {"model": {"name": "builtin:tiny-qwen3"}})
    run.write_json(run.summary, {"status": "done", "steps": 0, "seconds": 1.0, "evaluation": dict(evaluation or {})})
    run.metrics.write_text("", encoding="utf-8")
    return run


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Return a function that writes a run: the arguments of `write_run` without the folder."""
    return lambda *arguments, **named: write_run(tmp_path / "made", *arguments, **named)


@pytest.fixture
def made_run(tmp_path: Path) -> RunDirectory:
    """Return a run of two candidates, `base` (mostly wrong) and `trained` (mostly right), on 20 items of five formats."""
    return write_run(
        tmp_path / "made",
        {
            "base": [["hostile", "cut", "value", "right", "cut", "cut", "right"]],
            "trained": [["right", "fenced", "right", "cut"]],
        },
    )
