"""The command train-sft: reads the configuration, answers the quick questions, and only then imports the trainer.

`--help`, `--dry-run` and `schema` import neither torch nor transformers, so that they answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tanren.common.attention import ATTENTION_VARIABLE
from tanren.common.command import run_command
from tanren.common.recipe_command import RecipeCommand, read_arguments
from tanren.sft.config import SftConfig

COMMAND = RecipeCommand(
    prog="train-sft",
    model=SftConfig,
    prefix="TANREN_SFT__",
    description="Supervised fine-tuning with LoRA: trains, evaluates before and after, writes a report.",
    default_recipe="tasks/structured/recipes/quickstart.toml",
    resumable=True,
    runs_stages=True,
    variables={ATTENTION_VARIABLE: "train.attention"},
)


def main() -> None:
    """Run train-sft with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    request = read_arguments(COMMAND, arguments)
    if request is None:
        return 0
    if request.stages:
        from tanren.sft.stages import run_stages

        return run_stages(request)
    from tanren.sft.plan import make_plan

    plan = make_plan(request.loaded, request.resume)
    if request.dry_run:
        request.print_plan(plan.facts(), plan.warnings)
        return 0
    from tanren.sft.job import run_job

    return run_job(plan, resume=request.resume)
