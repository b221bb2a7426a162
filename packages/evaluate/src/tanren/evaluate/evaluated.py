"""What a run's evaluation folder holds, read back and judged: tasks, and the answers of every candidate that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack, load_pack
from tanren.evaluate.evaluator import PREDICTIONS, TASKS
from tanren.evaluate.listing import candidate_names
from tanren.evaluate.predictions import read_predictions, read_tasks
from tanren.evaluate.scoring import Judged, judge
from tanren.evaluate.task_list import TaskList


@dataclass(frozen=True)
class Evaluated:
    """The items of a run with all that was written for them: `candidates` by name, in order, each in the order of `rows`."""

    pack: TaskPack
    rows: Sequence[Row]
    candidates: Mapping[str, Sequence[Judged]]

    pair: tuple[str, str]
    """The two that are compared first: the first one and, if the summary does not name another, the last."""

    listed: TaskList | None = None
    """The list of tasks that was answered; None: the pack's own held-out rows."""

    rank_by: str | None = None
    """What the run ranks its candidates by, where it says so."""


def predictions_of(run: RunDirectory, candidate: str) -> Path:
    """Return where the answers of a candidate are."""
    return run.evaluation / candidate / PREDICTIONS


def is_evaluated(run: RunDirectory) -> bool:
    """Whether the run has answers that can be shown."""
    return run.config.is_file() and (run.evaluation / TASKS).is_file() and bool(names_of(run))


def names_of(run: RunDirectory) -> list[str]:
    """Return the candidates that have answers, in the order of tables."""
    return [name for name in candidate_names(run.evaluation) if predictions_of(run, name).is_file()]


def read_evaluated(run: RunDirectory) -> Evaluated:
    """Read and judge what a run's candidates wrote. Raises UserError for a run that has nothing of the kind, or broken files."""
    if not is_evaluated(run):
        raise UserError(f"{run.path}: nothing to show: {_instead(run)}")
    config = run.read_config()
    task, tasks = config["task"], config.get("tasks")
    pack = load_pack(task["name"], task.get("options"))
    rows = read_tasks(run.evaluation / TASKS)
    candidates = {}
    for name in names_of(run):
        path = predictions_of(run, name)
        candidates[name] = judge(rows, read_predictions(path), pack.parse, str(path))
    names = list(candidates)
    told = _summary(run).get("evaluation", {})
    second = told["second"] if told.get("second") in names else names[-1]
    listed = TaskList(Path(tasks), rows, outside=True) if tasks is not None else None
    return Evaluated(pack, rows, candidates, (names[0], second), listed, config.get("rank_by"))


def _instead(run: RunDirectory) -> str:
    """Return what is there instead of answers, and what to do."""
    if not run.path.is_dir():
        return "there is no such folder; name a run directory"
    if not run.config.is_file():
        return "it is no run directory (no config.toml); name one"
    stages = sorted(path for path in run.stages.glob("*") if (path / "evaluation" / TASKS).is_file())
    if stages:
        return f"the run has stages; name one of them: {', '.join(map(str, stages))}"
    if (run.path / "control").is_dir():
        return (
            f"it is a run of `evaluate control`; its decisions are in {run.path / 'control'}, the page is {run.report}"
        )
    return f"no tasks and predictions in {run.evaluation}; evaluate it first: evaluate --candidate {run.path}"


def _summary(run: RunDirectory) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(run.summary.read_text(encoding="utf-8"))
    except FileNotFoundError:  # the run goes on, or was stopped
        return {}
    return found
