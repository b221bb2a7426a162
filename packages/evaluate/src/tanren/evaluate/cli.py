"""The command evaluate: `evaluate RECIPE` generates and scores, `evaluate score PACK PREDICTIONS` scores what is there.

`evaluate control` runs a plant in closed loop.

`--help`, `--dry-run`, `schema` and `score` import neither torch nor transformers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from tanren.common.attention import ATTENTION_VARIABLE
from tanren.common.command import run_command
from tanren.common.errors import UserError
from tanren.common.models.source import resolve_source
from tanren.common.recipe_command import RecipeCommand, read_arguments
from tanren.common.task_packs import load_pack
from tanren.evaluate.config import EvaluateConfig

COMMAND = RecipeCommand(
    prog="evaluate",
    model=EvaluateConfig,
    prefix="TANREN_EVALUATE__",
    description=(
        "Evaluates a model, and an adapter on it, on a task pack's held-out rows: greedy decoding, scores with 95 % intervals. "
        "'evaluate score PACK PREDICTIONS' scores predictions again without generating, "
        "'evaluate control WEATHER.csv ... --policy MODEL' lets a policy or a model run a plant in closed loop."
    ),
    default_recipe="tasks/structured/recipes/evaluate.toml",
    variables={ATTENTION_VARIABLE: "generation.attention"},
)


def main() -> None:
    """Run evaluate with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "score":
        return tyro.cli(score_command, args=list(arguments[1:]), prog="evaluate score")
    if arguments and arguments[0] == "control":
        from tanren.evaluate.control import control_command

        return tyro.cli(control_command, args=list(arguments[1:]), prog="evaluate control")
    request = read_arguments(COMMAND, arguments)
    if request is None:
        return 0
    config: EvaluateConfig = request.loaded.config
    source = resolve_source(config.model.name, config.model.revision)
    pack = load_pack(config.task.name, config.task.options)
    rows = pack.rows("heldout")
    if not rows:
        raise UserError(f"the task pack {config.task.name} gave no held-out row to evaluate on; raise its option")
    if config.adapter is not None and not (config.adapter.expanduser() / "adapter_config.json").is_file():
        raise UserError(f"adapter {config.adapter}: no adapter_config.json there; name the folder of a trained adapter")
    if request.dry_run:
        request.print_plan({"model": source.describe(), "task": pack.description.name, "items": len(rows)})
        return 0
    from tanren.evaluate.job import run_job

    return run_job(request.loaded, pack, rows)


def score_command(
    pack: tyro.conf.Positional[str],
    predictions: tyro.conf.Positional[Path],
    tasks: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Score predictions again, without generating.

    Args:
        pack: The task pack whose parser judges.
        predictions: A predictions.jsonl.
        tasks: The tasks.jsonl that the predictions answer; not given: the one beside the candidate's folder.
        as_json: Print one JSON object instead of the table.
    """
    from tanren.evaluate.evaluator import TASKS
    from tanren.evaluate.predictions import read_predictions, read_tasks
    from tanren.evaluate.scoring import judge, score
    from tanren.evaluate.table import score_table

    loaded = load_pack(pack)
    given = read_predictions(predictions)
    path = tasks or predictions.parent.parent / TASKS
    if not path.is_file():
        raise UserError(f"no tasks at {path}; name the tasks.jsonl that the predictions answer with --tasks FILE")
    scores = score(judge(read_tasks(path), given, loaded.parse, str(predictions)))
    if as_json:
        json.dump(scores, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(score_table(loaded.description.group, scores, str(predictions)) + "\n")
    return 0
