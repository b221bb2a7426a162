"""One controlled run: the policy, the optimum and the baselines on the same weeks; figures, log, plots, report."""

from __future__ import annotations

import io
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tanren.common.command import Preempted
from tanren.common.config import dump_toml
from tanren.common.console import Console
from tanren.common.control_contract import OPTIMAL, Episode, Week
from tanren.common.errors import ExitCode, MachineError
from tanren.common.run import (
    MetricsWriter,
    RunDirectory,
    create_run,
    describe_environment,
    held,
    write_atomically,
)
from tanren.common.task_packs import load_pack

from ._log import FOLDER, LOG, DecisionLog, read_log
from ._loop import Controller, NamedPolicy, run_loop, run_policy
from ._result import summary_values, week_values
from ._resume import IDENTITY, NAME, refuse_other_model
from ._settings import ControlSettings
from ._table import control_table

COMMAND = "evaluate"


def run_control(
    settings: ControlSettings,
    weeks: Sequence[Week],
    runs: Path,
    run_dir: Path | None,
    earlier: RunDirectory | None,
    *,
    as_json: bool,
) -> int:
    """Run the weeks and write what they came to; return the exit code. `earlier` is the run that is resumed."""
    console, begun, policy = Console(), time.time(), settings.policy
    controller, environment = None, dict[str, Any]()
    if earlier is None:  # a model is loaded before there is a run directory: what is refused leaves nothing behind
        controller, environment = _controller(settings, console)
    run = earlier or create_run(run_dir, runs, NAME)
    with held(run), run.log.open("a", encoding="utf-8") as console.log:
        metrics = MetricsWriter(run.metrics)
        console.attach(metrics)
        console.line(f"run directory: {run.path}")
        log = DecisionLog(run.path / FOLDER / LOG)
        total = len(weeks) * weeks[0].decisions
        if earlier is None:
            again = {"command": COMMAND, "arguments": [NAME, *settings.arguments()]}
            run.write_json(run.environment, describe_environment() | again | environment)
            write_atomically(run.config, dump_toml(settings.recorded, settings.origins))
        else:
            console.line(f"{len(log)} of {total} decisions are in the log already")
            if len(log) < total:
                controller, environment = _controller(settings, console)
                refuse_other_model(run, environment)
        episodes = _loop(settings, controller, weeks, log, run, console)
        baselines = {name: run_policy(weeks, name) for name in weeks[0].policies}
        records = [
            week_values(
                week.name,
                policy,
                episodes[index].outcome(),
                {name: one[index].outcome() for name, one in baselines.items()},
            )
            for index, week in enumerate(weeks)
        ]
        failures = _failures(records, weeks[0], log.path, console)
        with console.phase("plot"):
            _plot(policy, weeks, episodes, baselines[OPTIMAL], run.path / FOLDER)
        summary = summary_values(records) if len(records) > 1 else None
        phases = {name: round(value, 2) for name, value in console.seconds.items()}
        run.write_json(
            run.summary,
            {
                "status": "done",
                "name": NAME,
                "steps": 0,
                "seconds": round(time.time() - begun, 1),
                "seconds_by_phase": phases,
                "evaluation": {},
                "control": {"weeks": records, "summary": summary, "failures": failures},
            },
        )
        _tell(records, summary, failures, run, console, as_json=as_json)
        metrics.close()
    return ExitCode.DONE


def _controller(settings: ControlSettings, console: Console) -> tuple[Controller, dict[str, Any]]:
    """Return who decides, and what `environment.json` records of it. Raises UserError for a model that is refused."""
    if settings.candidate is None:
        return NamedPolicy(settings.policy), dict.fromkeys(IDENTITY) | {"model": {"name": settings.policy}}
    from ._model import ModelController

    parse = load_pack(settings.task).parse
    found = ModelController(settings.candidate, settings.flags, settings.seed or 0, parse, console)
    return found, found.environment


def _loop(
    settings: ControlSettings,
    controller: Controller | None,
    weeks: Sequence[Week],
    log: DecisionLog,
    run: RunDirectory,
    console: Console,
) -> list[Episode]:
    """Close the loop; every decision is in the log as soon as it acts."""
    try:
        with (
            console.phase(NAME, f"{settings.policy}, {len(weeks)} week{'s' * (len(weeks) > 1)}"),
            console.bar(NAME, weeks[0].decisions, "decisions") as bar,
        ):

            def on_decision(number: int) -> None:
                if settings.candidate is not None:
                    bar.report(number, f"{log.failed} failed")

            return run_loop(weeks, controller, log, on_decision, lambda number, told: bar.advance(number - 1, told))
    except (MachineError, KeyboardInterrupt, Preempted):
        console.line(f"what was decided is kept; to go on: the same command with --resume {run.path}")
        raise


def _failures(records: Sequence[Mapping[str, Any]], week: Week, log: Path, console: Console) -> dict[str, Any]:
    """Return why decisions failed, each reason with its count, and what the plant did then; say it as a warning."""
    reasons = Counter(entry["failed"] for entry in read_log(log) if entry["action"] is None)
    failed = sum(record["failed_decisions"] for record in records)
    assert failed == reasons.total()
    if failed:
        told = "; ".join(f"{count} times: {reason}" for reason, count in reasons.most_common(3))
        console.warn(
            f"{failed} of {sum(record['decisions'] for record in records)} decisions failed ({told}); in such an hour "
            f"{week.no_decision}"
        )
    return {"reasons": dict(reasons.most_common()), "no_decision": week.no_decision}


def _plot(
    policy: str, weeks: Sequence[Week], episodes: Sequence[Episode], optimal: Sequence[Episode], folder: Path
) -> None:
    """Write a plot of each week beside its optimum, as SVG."""
    for week, own, best in zip(weeks, episodes, optimal, strict=True):
        text = io.StringIO()
        week.figure({policy: own} if policy == OPTIMAL else {policy: own, OPTIMAL: best}).savefig(
            text, format="svg", metadata={"Date": None, "Creator": None}
        )
        write_atomically(folder / f"{week.name}.svg", text.getvalue())


def _tell(
    records: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    failures: Mapping[str, Any],
    run: RunDirectory,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Write the report, and print the result on standard output."""
    from tanren.evaluate.report import write_report

    with console.phase("write report"):
        page = write_report(run)
    if as_json:
        result = dict(records[0]) if summary is None else {"weeks": list(records), "summary": dict(summary)}
        folder = run.path / FOLDER
        where = {
            "run": str(run.path),
            "decision_log": str(folder / LOG),
            "plots": [str(folder / f"{record['week']}.svg") for record in records],
            "report": str(page),
        }
        json.dump(result | {"failures": dict(failures)} | where, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(f"{control_table(records, summary)}\n")
    console.line(f"decision log and plots: {run.path / FOLDER}")
    console.line(f"report: {page}")
