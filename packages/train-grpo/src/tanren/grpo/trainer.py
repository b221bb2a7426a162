"""Learns from the completions of a step: log-probabilities, loss, gradient, update.

The loss of an update is a sum over tokens whose weights are known before (losses), so that it does not depend on how
completions share passes. What sampled is taken to be the trainer's own old model; how far the engine's numbers are from it
is measured at every token, and stops the run where it is too far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tanren.common.config import AUTO
from tanren.common.errors import FoundWantingError
from tanren.common.fused import TokenLogProbs
from tanren.common.schedule import rate_factor
from tanren.grpo.config import GrpoConfig
from tanren.grpo.losses import correction_weights, token_terms, token_weight
from tanren.grpo.measures import Measures
from tanren.grpo.micro_batches import Tensors, log_probs_of, micro_batches, tensors_of
from tanren.grpo.rollout import Rated, Rollout

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Update:
    """One optimizer update."""

    lengths: list[int]
    """Tokens of every completion that counts: the weights follow from them."""
    batches: list[list[Rated]]
    """Those that give a gradient, in micro-batches: an advantage of 0 gives none, unless there is a reference to keep to."""


class GrpoTrainer:
    """Owns the optimizer; the model is changed in place."""

    def __init__(
        self,
        model: PeftModel,
        config: GrpoConfig,
        optimizer: torch.optim.Optimizer,
        *,
        packs: bool,
        shared: bool = False,
    ) -> None:
        """Train what has a gradient in `model`.

        `packs` says whether completions may share a pass, `shared` whether those of a group may share their prompt in it.
        """
        assert config.train.micro_batch_tokens != AUTO, "settled before"
        self._model, self._config, self.optimizer = model, config, optimizer
        self._budget, self._shared = config.train.micro_batch_tokens if packs else 1, packs and shared
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._device = next(iter(self._trained)).device
        self.updates = 0

    def lay_out(self, rollout: Rollout) -> list[Update]:
        """Return the updates of a step."""
        found = []
        for share in rollout.shares(self._config.train.updates_per_step):
            needed = [one for one in share if one.advantage or self._config.loss.beta]
            lengths = [len(one.completion.token_ids) for one in share]
            found.append(Update(lengths, micro_batches(needed, self._budget, shared=self._shared)))
        return found

    def learn(self, updates: Sequence[Update], step: int) -> dict[str, Any]:
        """Do the updates of step `step` (from 1); return its numbers.

        Raises FoundWantingError, before the weights are touched, where loss or gradient are no number, or the engine's
        log-probabilities are too far from the trainer's.
        """
        measures = Measures(self._device)
        seconds = {"score": 0.0, "train": 0.0}
        begun = time.perf_counter()
        old = self._old(updates)
        self._wait()
        seconds["score"] = time.perf_counter() - begun
        begun = time.perf_counter()
        rate = self._config.optim.lr * rate_factor(step - 1, self._config.train.steps, self._config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._model.train()
        with _one_order_of_sums(self._device):
            for update, before in zip(updates, old, strict=True):
                self._update(update, before, measures, step)
        self._model.eval()
        self._wait()
        seconds["train"] = time.perf_counter() - begun
        return {
            **measures.numbers(len(updates)),
            "lr": rate,
            **{f"seconds_{name}": one for name, one in seconds.items()},
        }

    def _update(self, update: Update, old: Sequence[torch.Tensor | None], measures: Measures, step: int) -> None:
        """Do one optimizer update, if there is anything to learn: without, Adam would move on by its momentum."""
        if not update.batches:
            return
        for batch, before in zip(update.batches, old, strict=True):
            self._loss(batch, update.lengths, before, measures).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained, self._config.optim.max_grad_norm or math.inf))
        self._refuse_gap(measures, step)
        loss = measures.loss
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise FoundWantingError(
                f"step {step}: the loss is {loss} and the gradient's norm {norm}; the weights are as before this update. Lower "
                "optim.lr, or raise optim.warmup_ratio; the completions are in generations.jsonl"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        measures.norms.append(norm)
        self.updates += 1

    def _loss(
        self, batch: Sequence[Rated], lengths: Sequence[int], old: torch.Tensor | None, measures: Measures
    ) -> torch.Tensor:
        """Return a micro-batch's share of the update's loss, and add what is measured."""
        config = self._config.loss
        made = self._tensors(batch)
        found = self._log_probs(made)
        before = found.log_probs.detach() if old is None else old
        terms = token_terms(
            config,
            found.log_probs,
            before,
            made.advantages,
            made.learned,
            reference=self._log_probs(made, reference=True).log_probs if config.beta else None,
            correction=correction_weights(config, before, made.engine, made.learned),
        )
        most = self._config.rollout.max_new_tokens
        each = [token_weight(config.kind, length, lengths, most) for length in made.learned]
        weights = torch.cat([terms.loss.new_full((n,), weight) for n, weight in zip(made.learned, each, strict=True)])
        share = weights * terms.loss
        measures.add(share, terms, before, made.engine, found.entropies)
        return share.sum()

    def _old(self, updates: Sequence[Update]) -> list[list[torch.Tensor | None]]:
        """Return the log-probabilities before the first update, by update and micro-batch.

        None with one update: the forward pass that learns gives them. So there is no pass for them alone.
        """
        if len(updates) == 1:
            return [[None] * len(updates[0].batches)]
        self._model.eval()
        with torch.no_grad():
            return [[self._log_probs(self._tensors(batch)).log_probs for batch in update.batches] for update in updates]

    def _log_probs(self, made: Tensors, *, reference: bool = False) -> TokenLogProbs:
        return log_probs_of(self._model, made, reference=reference)

    def _tensors(self, batch: Sequence[Rated]) -> Tensors:
        return tensors_of(batch, self._device, shared=self._shared)

    def _refuse_gap(self, measures: Measures, step: int) -> None:
        """Raise FoundWantingError where engine and trainer disagree: what is learned then is not what was sampled.

        A few tokens say little: one of them can make the mean. So it is the mean less two standard errors that counts.
        """
        limit, (found, error) = self._config.loss.max_gap, measures.gap_kl()
        if limit and not found - 2 * error <= limit:
            advice = (
                "The completions are one step old (rollout.ahead), and a step moves the model so far: lower optim.lr, or raise the limit"
                if self._config.rollout.ahead
                else "Look whether the engine has the trainer's weights; if it has, raise the limit, and weight by the difference "
                "(loss.correction)"
            )
            raise FoundWantingError(
                f"step {step}: engine and trainer disagree on the completions: mean divergence {found:.4f} nats per token (standard error "
                f"{error:.4f}), the limit is loss.max_gap = {limit:g}; the weights are as before this update. {advice}"
            )

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def state(self) -> Mapping[str, Any]:
        """Return what a checkpoint keeps besides weights and optimizer."""
        return {"updates": self.updates}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.updates = state["updates"]


@contextmanager
def _one_order_of_sums(device: torch.device) -> Iterator[None]:
    """Have torch repeat its sums in one order; on a CPU it knows no other."""
    if device.type != "cuda":
        yield
        return
    # Else torch would fill every new tensor first, a pass over memory for each; nothing is read unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
