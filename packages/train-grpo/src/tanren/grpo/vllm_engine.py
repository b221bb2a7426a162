"""Generation by vLLM on the trainer's own GPU: held against the trainer before step 1, and whenever it has woken.

Two things go wrong in such engines without a word: the weights that it generates with are not those that are trained, or it
wakes with garbage. So both score one known prompt. Before step 1 with an adapter that changes much: what vLLM says of the prompt
must move as the trainer's numbers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tanren.common.adapted import adapters_at_work
from tanren.common.completions import Completion, Sampling, Tokens
from tanren.common.errors import MachineError
from tanren.common.fused import next_token_log_probs
from tanren.common.grammar import Grammars
from tanren.common.vllm import Settings, Vllm

KNOWN_TOKENS = 128
"""Of the prompt that both score."""
# Mean distance between the two in nats per token. bfloat16 alone makes up to 0.03 of it; wrong weights make whole nats.
FAR = 0.25


class VllmEngine:
    """vLLM with the merged weights of the model that is trained."""

    name = "vllm"

    def __init__(self, model: Any, settings: Settings, known: Tokens, grammars: Grammars | None = None) -> None:
        """Start vLLM for `model`; `known` is the prompt that both score, `grammars` are for completions of a given form.

        Raises MachineError where it does not follow the trainer.
        """
        self._known = list(known[:KNOWN_TOKENS])
        self._vllm = Vllm(model, settings, grammars)
        try:
            self.proof = self._prove(model)
        except BaseException:
            self._vllm.close()
            raise
        self._vllm.sleep()

    def wake(self) -> None:
        """Take back the memory that `sleep` gave up."""
        self._vllm.wake()

    def sync(self, model: Any) -> None:
        """Take over the weights, and see that they are the trainer's."""
        self._vllm.sync(model)
        far = _distance(self._scores(), trainer_scores(model, self._known))
        if not far < FAR:
            raise MachineError(
                f"vLLM is not generating with the trainer's weights: on a known prompt they are {far:.3f} nats per token apart, "
                f"expected is less than {FAR}; set rollout.engine = transformers, and please report it with the log"
            )

    def generate(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[list[Completion]]:
        """Return `n` completions of each prompt, drawn independently."""
        return self._vllm.generate(prompts, n, sampling)

    def sleep(self) -> None:
        """Give up the memory that training can use, as much as vllm.sleep_level says."""
        self._vllm.sleep()

    def close(self) -> None:
        """Give up everything."""
        self._vllm.close()

    def state(self) -> Mapping[str, Any]:
        """Return nothing: vLLM draws by the random states of this process, which a checkpoint has."""
        return {}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""

    def _scores(self) -> torch.Tensor:
        return torch.tensor(self._vllm.score(self._known))

    def _prove(self, model: Any) -> str:
        """Change the adapter, and see vLLM's log-probabilities move as the trainer's do; say by how much."""
        self._vllm.sync(model)
        trainer, engine = trainer_scores(model, self._known), self._scores()
        with adapters_at_work(model):
            self._vllm.sync(model)
            moved_trainer, moved_engine = trainer_scores(model, self._known), self._scores()
        moved, apart = _distance(trainer, moved_trainer), _distance(moved_trainer - trainer, moved_engine - engine)
        said = (
            f"with a changed adapter the trainer's log-probabilities move by {moved:.3f} nats per token, vLLM's by "
            f"{_distance(engine, moved_engine):.3f}, {apart:.3f} apart; unchanged they are {_distance(trainer, engine):.3f} apart"
        )
        self._vllm.sync(model)
        back = _distance(self._scores(), engine)
        if not (apart < FAR and _distance(trainer, engine) < FAR and back < FAR):
            raise MachineError(
                f"vLLM does not follow the trainer's weights: {said}, and {back:.3f} from where they were after the adapter was put back; "
                f"expected is less than {FAR}; set rollout.engine = transformers"
            )
        return said


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
