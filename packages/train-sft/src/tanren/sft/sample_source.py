"""What train-sft gives those who look at its data: the samples of a recipe, as they would be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.common.chat import Sample
from tanren.common.config import Loaded
from tanren.common.recipe_command import RecipeCommand
from tanren.sft.command import COMMAND
from tanren.sft.config import SftConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SftSamples:
    """The entry point `train-sft` of the group `tanren.samples`."""

    command: RecipeCommand = COMMAND

    def samples(self, loaded: Loaded[SftConfig]) -> tuple[PreTrainedTokenizerBase, Sequence[Sample], list[str]]:
        """Return the tokenizer, every sample in the order of the rows, and what became of the rows; no weights are loaded."""
        from tanren.common.models.load import load_tokenizer
        from tanren.sft.plan import make_plan
        from tanren.sft.training_data import make_training_data

        plan = make_plan(loaded)
        tokenizer = load_tokenizer(plan.source, plan.config.model.chat_template)
        data = make_training_data(tokenizer, plan)
        return tokenizer, data.training.source, [*plan.selection.lines, *data.lines()]


SOURCE = SftSamples()
