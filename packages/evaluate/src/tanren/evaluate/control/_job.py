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

from tanren.common.config import GenerationConfig, dump_toml
from tanren.common.console import Console
from tanren.common.control_contract import OPTIMAL, Episode, Week
from tanren.common.errors import ExitCode
from tanren.common.run import (
    MetricsWriter,
    RunDirectory,
    append_line,
    create_run,
    describe_environment,
    write_atomically,
)
from tanren.common.task_packs import load_pack

from ._candidate import Candidate
from ._flags import ModelFlags
from ._loop import Controller, NamedPolicy, run_loop
from ._result import summary_values, week_values
from ._section import FOLDER, LOG
from ._table import control_table

"""Where in the run directory the log is; the plots `<week>.svg` are beside it."""


def run_control(
    policy: str,
    weeks: Sequence[Week],
    candidate: Candidate | None,
    flags: ModelFlags,
    settings: Mapping[str, Any],
    runs: Path,
    run_dir: Path | None,
    *,
    as_json: bool,
) -> int:
    """Run the weeks and write what they came to; return the exit code. `candidate` is the model, unless the policy needs none."""
    console, begun = Console(), time.time()
    controller: Controller = NamedPolicy(policy)
    environment: dict[str, Any] = {"model": {"name": policy}}
    if candidate is not None:  # loaded before there is a run directory: what it refuses leaves nothing behind
        from ._model import ModelController

        task = settings["task"]
        controller = model = ModelController(candidate, flags, settings["seed"], load_pack(task).parse, console)
        environment = model.environment
    run = create_run(run_dir, runs, "control")
    metrics = MetricsWriter(run.metrics)
    console.attach(metrics)
    with run.log.open("a", encoding="utf-8") as console.log:
        console.line(f"run directory: {run.path}")
        write_atomically(run.config, _recorded(settings, candidate, flags))
        run.write_json(run.environment, describe_environment() | environment)
        episodes = _loop(policy, controller, weeks, run.path / FOLDER, console, asks_model=candidate is not None)
        baselines = {name: run_loop(weeks, NamedPolicy(name)) for name in weeks[0].policies}
        records = [
            week_values(
                week.name,
                policy,
                episodes[index].outcome(),
                {name: one[index].outcome() for name, one in baselines.items()},
            )
            for index, week in enumerate(weeks)
        ]
        failures = _failures(records, weeks[0], run.path / FOLDER / LOG, console)
        with console.phase("plot"):
            _plot(policy, weeks, episodes, baselines[OPTIMAL], run.path / FOLDER)
        summary = summary_values(records) if len(records) > 1 else None
        phases = {name: round(value, 2) for name, value in console.seconds.items()}
        run.write_json(
            run.summary,
            {
                "status": "done",
                "name": "control",
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


def _recorded(settings: Mapping[str, Any], candidate: Candidate | None, flags: ModelFlags) -> str:
    """Return the run's configuration as TOML, each value with its origin."""
    values = {"control": dict(settings)}
    said = {f"control.{key}": "command line" for key, value in settings.items() if value}
    if candidate is None:
        return dump_toml(values, said)
    temperature, top_p = flags.drawn or (0.0, 1.0)
    values["control"] |= {
        "prompt": candidate.prompt,
        "samples": flags.count,
        "vote": "majority",
        "temperature": temperature,
        "top_p": top_p,
    }
    said |= {f"control.{flag.removeprefix('--').replace('-', '_')}": f"flag {flag}" for flag in flags.given()}
    model = candidate.loaded.values()
    kept: dict[str, Any] = {"adapter": None if candidate.adapter is None else str(candidate.adapter)}
    kept |= {key: model[key] for key in ("allow_other_template", "model")}
    kept["generation"] = {key: model["generation"][key] for key in GenerationConfig.model_fields}
    return dump_toml(kept | values, said | dict(candidate.loaded.origins))


def _loop(
    policy: str, controller: Controller, weeks: Sequence[Week], folder: Path, console: Console, *, asks_model: bool
) -> list[Episode]:
    """Close the loop; every decision is in the log as soon as it acts."""
    folder.mkdir()
    failed = 0
    with (
        (folder / LOG).open("ab") as log,
        console.phase("control", f"{policy}, {len(weeks)} week{'s' * (len(weeks) > 1)}"),
        console.bar("control", weeks[0].decisions, "decisions") as bar,
    ):

        def on_decision(entry: Mapping[str, Any]) -> None:
            nonlocal failed
            append_line(log, entry)
            failed += entry["action"] is None
            if asks_model and entry["week"] == weeks[-1].name:
                bar.report(entry["decision"], f"{failed} failed")

        return run_loop(weeks, controller, on_decision)


def _failures(records: Sequence[Mapping[str, Any]], week: Week, log: Path, console: Console) -> dict[str, Any]:
    """Return why decisions failed, each reason with its count, and what the plant did then; say it as a warning."""
    reasons: Counter[str] = Counter()
    with log.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if entry["action"] is None:
                reasons[entry["failed"]] += 1
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
        json.dump(result | {"failures": dict(failures), "run": str(run.path)}, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(f"{control_table(records, summary)}\n")
    console.line(f"decision log and plots: {run.path / FOLDER}")
    console.line(f"report: {page}")
