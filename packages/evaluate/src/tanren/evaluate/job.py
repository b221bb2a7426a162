"""One evaluation from recipe to report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tanren.common.command import Preempted
from tanren.common.completions import Sampling
from tanren.common.config import Loaded, dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode, TanrenError
from tanren.common.run import (
    MetricsWriter,
    RunDirectory,
    create_run,
    describe_environment,
    held,
    refuse_existing,
    write_atomically,
)
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.engine import Backend, Draws
from tanren.evaluate.evaluator import GenerationEvaluator
from tanren.evaluate.listing import write_candidates
from tanren.evaluate.measures import pack_tables
from tanren.evaluate.modes import modes_of
from tanren.evaluate.ranking import choice_warning, rank, select, standings
from tanren.evaluate.report import write_report
from tanren.evaluate.roster import Candidate
from tanren.evaluate.scoring import METRICS, compare
from tanren.evaluate.table import (
    HELDOUT,
    candidate_modes_table,
    candidates_table,
    comparison_table,
    modes_table,
    ranking_table,
    samples_table,
    score_table,
    selection_line,
    shown_metrics,
)
from tanren.evaluate.task_list import TaskList

COMMAND = "evaluate"


def run_job(
    loaded: Loaded[EvaluateConfig],
    pack: TaskPack,
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    warnings: Sequence[str],
    earlier: RunDirectory | None,
    listed: TaskList | None,
) -> int:
    """Generate with every candidate, score, compare, report; return the exit code.

    `earlier` is the run that is resumed; `listed` the file that the rows come from, where it is not the pack that makes them.
    """
    console, config, begun = Console(), loaded.config, time.time()
    names = ", ".join(one.name for one in candidates)
    items = HELDOUT if listed is None else listed.items
    console.line(f"evaluate {config.name}: {names}; {len(rows)} {items}")
    for warning in warnings:
        console.warn(warning)
    if earlier is None:
        refuse_existing(config.output.run_dir)  # told now, not after a minute of loading
    backend = _backend(loaded, candidates, console)
    backend.prepare()
    run = earlier or create_run(config.output.run_dir, config.output.runs, config.name)
    with held(run), run.log.open("a", encoding="utf-8") as console.log:
        metrics = MetricsWriter(run.metrics)
        console.attach(metrics)
        console.line(f"run directory: {run.path}")
        if earlier is None:
            write_atomically(run.config, dump_toml(loaded.values(), loaded.origins))
            environment = describe_environment() | {"command": COMMAND, **backend.environment()}
            run.write_json(run.environment, environment)
        evaluator = GenerationEvaluator(pack, rows, config.generation, console, draws_of(config), items)
        _generate(evaluator, backend, candidates, rows, run, console)
        evaluation = _evaluation(evaluator, pack, config, [one.name for one in candidates])
        evaluation["modes"] = {one.name: modes_of(pack, evaluator.judged[one.name]) for one in candidates}
        if listed is not None:
            evaluation |= {"tasks": listed.record(), "heldout": listed.told()}
        summary = {
            "status": "done",
            "name": config.name,
            "steps": 0,
            "seconds": round(time.time() - begun, 1),
            "seconds_by_phase": {name: round(value, 2) for name, value in console.seconds.items()},
            "evaluation": evaluation,
        }
        run.write_json(run.summary, summary)
        _tell(console, evaluation, evaluator.how, items, run)
        metrics.close()
    return ExitCode.DONE


def draws_of(config: EvaluateConfig) -> Draws:
    """Return how a recipe's completions are drawn."""
    one = config.generation
    return Draws(Sampling(one.max_new_tokens, one.temperature, one.top_p), one.samples, one.seed)


def _backend(loaded: Loaded[EvaluateConfig], candidates: Sequence[Candidate], console: Console) -> Backend:
    if loaded.config.generation.engine == "server":
        from tanren.evaluate.served_models import ServedModels

        return ServedModels(loaded, candidates, console)
    from tanren.evaluate.loaded_models import LoadedModels

    return LoadedModels(loaded, candidates, console)


def _generate(
    evaluator: GenerationEvaluator,
    backend: Backend,
    candidates: Sequence[Candidate],
    rows: Sequence[Row],
    run: RunDirectory,
    console: Console,
) -> None:
    """Let every candidate answer, and leave the list of them beside their predictions."""
    run.evaluation.mkdir(exist_ok=True)
    listed = [one.record() | dict(backend.describe(one)) for one in candidates]
    write_candidates(run.evaluation, listed)
    try:
        for one in backend.order():
            prompts = backend.prompts(one, rows)
            evaluator.evaluate_with(one.name, prompts, lambda one=one: backend.serving(one), run.evaluation)  # type: ignore[misc]
    except (TanrenError, KeyboardInterrupt, Preempted):
        console.line(f"what was generated is kept; to go on: the same command with --resume {run.path}")
        raise
    finally:
        backend.close()


def _evaluation(
    evaluator: GenerationEvaluator, pack: TaskPack, config: EvaluateConfig, names: Sequence[str]
) -> dict[str, Any]:
    """Return what `summary.json` records: the scores of all, each beside the first, the ranking, the selection.

    `second`, which stands beside the first in detail, is the best of the others.
    """
    judged = {name: evaluator.judged[name] for name in names}
    first, *others = names
    if not others:
        return evaluator.subject() | {"candidates": {first: evaluator.scores(first)}}
    ranked = standings(judged, pack, config.rank_by)
    ranking = rank(ranked)
    second = next(one["name"] for one in ranking["order"] if one["name"] != first)
    found = dict(evaluator.compare(first, second))
    found["candidates"] = {name: evaluator.scores(name) for name in names}
    found["differences"] = {name: compare(judged[first], judged[name]) for name in others}
    found["measures_differences"] = {name: evaluator.measures_difference(first, name) for name in others}
    found["ranking"] = ranking
    if config.generation.selection:
        found["selection"] = select(ranked, config.generation.selection, config.generation.seed, first)
    return found


def _tables(evaluation: Mapping[str, Any], how: str, items: str) -> Iterator[str]:
    """Yield the tables to print."""
    scores, group, modes = evaluation["candidates"], evaluation["group"], evaluation["modes"]
    names = list(scores)
    if len(names) == 1:
        yield score_table(group, scores[names[0]], names[0])
    elif len(names) == 2:
        first, second = names
        yield comparison_table(group, scores, evaluation["difference"], first, second, how, items)
        if evaluation["ranking"]["metric"] not in METRICS:  # which the table above does not show
            yield ranking_table(evaluation["ranking"], scores)
    else:
        for metric in shown_metrics(scores):
            yield candidates_table(group, scores, how, metric, items)
        yield ranking_table(evaluation["ranking"], scores)
    if "samples" in scores[names[0]]:
        yield samples_table(scores)
    if "tasks" in evaluation and any(modes.values()):  # of the pack's own rows report and summary.json have them
        yield modes_table(group, modes[names[0]], names[0]) if len(names) == 1 else candidate_modes_table(modes)
    yield from pack_tables(evaluation["task"], scores, evaluation["measures_difference"] if len(names) == 2 else None)


def _tell(console: Console, evaluation: Mapping[str, Any], how: str, items: str, run: RunDirectory) -> None:
    """Print the tables, and write the report."""
    scores = evaluation["candidates"]
    with console.phase("write report"):
        page = write_report(run)
    for table in _tables(evaluation, how, items):
        console.text(table)
    cut = {name: one["cut_at_max_new_tokens"] for name, one in scores.items() if one["cut_at_max_new_tokens"]}
    if cut:
        told = ", ".join(f"{name} {count}" for name, count in cut.items())
        console.line(f"answers cut at max_new_tokens: {told}")
    for name, one in scores.items():
        for reason, count in one.get("ended_otherwise", {}).items():
            console.warn(
                f"{name}: {count} answers ended by {reason!r}: that is the server's doing, and they are judged as they are"
            )
    if "selection" in evaluation:
        console.line(selection_line(evaluation["selection"]))
    elif warning := choice_warning(len(scores)):
        console.warn(f"{warning} (--generation.selection 0.3)")
    console.line(f"predictions and scores: {run.evaluation}")
    console.line(f"report: {page}")
