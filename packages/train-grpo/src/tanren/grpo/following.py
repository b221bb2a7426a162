"""Does an engine generate with the weights that are trained? Engine and trainer score one known prompt.

Two things go wrong in engines that have weights of their own without a word: these are not the trained ones, or the engine wakes
with garbage. So before step 1 the adapter is given values that change much, and what the engine says of the prompt must move as
the trainer's numbers do; and both must agree whenever the engine has taken over weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tanren.common.adapted import adapters_at_work
from tanren.common.completions import Tokens
from tanren.common.errors import MachineError
from tanren.common.fused import next_token_log_probs

KNOWN_TOKENS = 128
"""Of the prompt that both score."""
# Mean distance in nats per token. bfloat16 alone makes 0.01 of it (Qwen3-0.6B's shape on an H100); other weights make tenths.
FAR = 0.1

Score = Callable[[Tokens], Sequence[float]]
"""Returns the log-probability of each token but the first, by the engine."""


class KnownPrompt:
    """The prompt that both score."""

    def __init__(self, tokens: Tokens, score: Score) -> None:
        """Take the first tokens of a prompt of at least two."""
        self._tokens, self._score = list(tokens[:KNOWN_TOKENS]), score

    def check(self, model: Any) -> None:
        """Raise MachineError where the engine's numbers are not those of the model's weights."""
        far = _distance(self._engine(), self._trainer(model))
        if not far < FAR:
            raise MachineError(
                f"the engine is not generating with the trainer's weights: on a known prompt they are {far:.3f} nats per token apart, "
                f"expected is less than {FAR}; set rollout.engine = transformers, and please report it with the log"
            )

    def prove(self, model: Any, sync: Callable[[Any], None]) -> str:
        """Change the adapter, and see the engine's log-probabilities move as the trainer's do; say by how much.

        `sync` gives the model's weights to the engine. Raises MachineError where the engine does not follow.
        """
        sync(model)
        trainer, engine = self._trainer(model), self._engine()
        with adapters_at_work(model):
            sync(model)
            moved_trainer, moved_engine = self._trainer(model), self._engine()
        sync(model)
        back = _distance(self._engine(), engine)
        moved, apart = _distance(trainer, moved_trainer), _distance(moved_trainer - trainer, moved_engine - engine)
        unmoved = _distance(trainer, engine)
        said = (
            f"with a changed adapter the trainer's log-probabilities move by {moved:.3f} nats per token, the engine's by "
            f"{_distance(engine, moved_engine):.3f}, {apart:.3f} apart; with the one that is trained they are {unmoved:.3f} apart"
        )
        if not (unmoved < FAR and apart < min(FAR, moved / 2) and back < FAR):
            raise MachineError(
                f"the engine does not follow the trainer's weights: {said}, and {back:.3f} from where they were after the adapter was put "
                f"back; expected is less than {FAR}, and less than half of what the trainer moves; set rollout.engine = transformers"
            )
        return said

    def _engine(self) -> torch.Tensor:
        return torch.tensor(self._score(self._tokens))

    def _trainer(self, model: Any) -> torch.Tensor:
        return trainer_scores(model, self._tokens)


def trainer_scores(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Return the log-probability of each token but the first as the trainer computes it, on the CPU."""
    device, count = next(model.parameters()).device, len(tokens)
    row, places = torch.tensor([list(tokens)], device=device), torch.arange(count, device=device)
    training = model.training
    model.eval()
    with torch.no_grad():
        found = next_token_log_probs(model, row, places[None], [count], places[:-1], row[0, 1:])
    model.train(training)
    return found.log_probs.float().cpu()


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean distance; NaN where a number is none."""
    return float((one - other).abs().mean())
