"""The command evaluate: `evaluate RECIPE` generates and scores, `evaluate score PACK PREDICTIONS` scores what is there,
`evaluate compare RUN RUN ...` ranks what several runs left, `evaluate submit PACK PREDICTIONS` writes or checks a submission file.

`evaluate control` runs a plant in closed loop.

`--help`, `--dry-run`, `schema`, `score`, `compare` and `submit` import neither torch nor transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import tyro

from tanren.common.attention import ATTENTION_VARIABLE
from tanren.common.command import run_command
from tanren.common.errors import UserError
from tanren.common.recipe_command import RecipeCommand, read_arguments, take_value
from tanren.common.task_packs import load_pack
from tanren.evaluate.answer_commands import score_command, submit_command
from tanren.evaluate.checks import check_settings
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.ranking import check_rank_by
from tanren.evaluate.roster import FLAG, add_named, settle_candidates, settle_latest

RESUME = "--resume"
COMMAND = RecipeCommand(
    prog="evaluate",
    model=EvaluateConfig,
    prefix="TANREN_EVALUATE__",
    description=(
        "Evaluates a model, and adapters and other models beside it, on a task pack's held-out rows: greedy or several samples, scores "
        "with 95 % intervals, paired differences, a ranking. "
        "'--tasks FILE' asks the tasks of a file instead: an outside benchmark's list. "
        f"'{FLAG} [NAME=]WHAT', once for each, adds a candidate: an adapter's folder, a finished run directory, latest:NAME, a model. "
        f"'{RESUME} latest|RUN_DIRECTORY' goes on with what an interrupted evaluation has generated. "
        "'evaluate score PACK PREDICTIONS' scores predictions again without generating; "
        "'evaluate compare RUN RUN ...' compares what several runs left, item by item; "
        "'evaluate submit PACK PREDICTIONS' writes or checks a submission file; "
        "'evaluate control WEATHER.csv ... --policy MODEL' lets a policy or a model run a plant in closed loop."
    ),
    default_recipe="tasks/structured/recipes/evaluate.toml",
    variables={ATTENTION_VARIABLE: "generation.attention"},
)


def _control() -> Callable[..., int]:
    from tanren.evaluate.control import control_command

    return control_command


def _compare() -> Callable[..., int]:
    from tanren.evaluate.compare_command import compare_command

    return compare_command


_COMMANDS: dict[str, Callable[[], Callable[..., int]]] = {
    "score": lambda: score_command,
    "compare": _compare,
    "submit": lambda: submit_command,
    "control": _control,
}


def main() -> None:
    """Run evaluate with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        return tyro.cli(command(), args=list(arguments[1:]), prog=f"evaluate {arguments[0]}")
    rest, named = list(arguments), []
    resume = take_value(rest, RESUME, "latest|RUN_DIRECTORY")
    while (what := take_value(rest, FLAG, "[NAME=]WHAT")) is not None:
        named.append(what)
    request = read_arguments(COMMAND, rest)
    if request is None:
        return 0
    loaded = settle_latest(add_named(request.loaded, named))
    config: EvaluateConfig = loaded.config
    candidates = settle_candidates(config)
    pack = load_pack(config.task.name, config.task.options)
    listed = None
    if config.tasks is not None:
        from tanren.evaluate.task_list import read_task_list

        listed = read_task_list(pack, config.tasks)
    rows = pack.rows("heldout") if listed is None else listed.rows
    if not rows:
        raise UserError(f"the task pack {config.task.name} gave no held-out row to evaluate on; raise its option")
    warnings = check_settings(loaded, len(candidates))
    check_rank_by(pack, rows, loaded.config.rank_by)
    if request.dry_run:
        facts = {
            "model": candidates[0].source.describe(),
            "candidates": [one.line() for one in candidates],
            "task": pack.description.name,
            "items": len(rows) if listed is None else f"{len(rows)} {listed.items}",
            "completions": len(rows) * config.generation.samples * len(candidates),
        }
        replace(request, loaded=loaded).print_plan(facts, warnings)
        return 0
    from tanren.evaluate.job import run_job
    from tanren.evaluate.resume import find_resumed

    earlier = find_resumed(resume, loaded) if resume is not None else None
    return run_job(loaded, pack, rows, candidates, warnings, earlier, listed)
