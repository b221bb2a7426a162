"""The command evaluate: `evaluate RECIPE` generates and scores, `evaluate score PACK PREDICTIONS` scores what is there,
`evaluate submit PACK PREDICTIONS` writes or checks a submission file.

`evaluate control` runs a plant in closed loop.

`--help`, `--dry-run`, `schema`, `score` and `submit` import neither torch nor transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from tanren.common.attention import ATTENTION_VARIABLE
from tanren.common.command import run_command
from tanren.common.errors import UserError
from tanren.common.models.source import resolve_source
from tanren.common.recipe_command import RecipeCommand, read_arguments
from tanren.common.task_packs import load_pack
from tanren.evaluate.answer_commands import score_command, submit_command
from tanren.evaluate.config import EvaluateConfig

COMMAND = RecipeCommand(
    prog="evaluate",
    model=EvaluateConfig,
    prefix="TANREN_EVALUATE__",
    description=(
        "Evaluates a model, and an adapter on it, on a task pack's held-out rows: greedy decoding, scores with 95 % intervals. "
        "'evaluate score PACK PREDICTIONS' scores predictions again without generating; "
        "'evaluate submit PACK PREDICTIONS' writes or checks a submission file; "
        "'evaluate control WEATHER.csv ... --policy MODEL' lets a policy or a model run a plant in closed loop."
    ),
    default_recipe="tasks/structured/recipes/evaluate.toml",
    variables={ATTENTION_VARIABLE: "generation.attention"},
)


def _control() -> Callable[..., int]:
    from tanren.evaluate.control import control_command

    return control_command


_COMMANDS: dict[str, Callable[[], Callable[..., int]]] = {
    "score": lambda: score_command,
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
