"""What the command line of train-sft is: its name, settings, default recipe."""

from __future__ import annotations

from tanren.common.attention import ATTENTION_VARIABLE
from tanren.common.recipe_command import RecipeCommand
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
