"""What the command line of train-grpo is: its name, settings, default recipe."""

from __future__ import annotations

from tanren.common.attention import ATTENTION_VARIABLE
from tanren.common.recipe_command import RecipeCommand
from tanren.grpo.config import GrpoConfig

COMMAND = RecipeCommand(
    prog="train-grpo",
    model=GrpoConfig,
    prefix="TANREN_GRPO__",
    description="GRPO with LoRA: generates, judges and learns, evaluates before and after, writes a report.",
    default_recipe="tasks/structured/recipes/quickstart-grpo.toml",
    resumable=True,
    variables={ATTENTION_VARIABLE: "train.attention"},
)
