"""What is measured over the tokens of a step while it learns: sums on the device, read once an update."""

from __future__ import annotations

import math
from typing import Any

import torch

from tanren.grpo.losses import Terms, divergence

COUNTED = ("loss", "tokens", "entropy", "clipped", "ratio", "gap", "gap_kl", "gap_kl_squared", "reference_kl")


class Measures:
    """Sums over the tokens that were computed, float64; a micro-batch adds its own."""

    def __init__(self, device: torch.device) -> None:
        """Begin with nothing."""
        self._sums = torch.zeros(len(COUNTED), dtype=torch.float64, device=device)
        self._largest_gap = torch.zeros((), device=device)
        self._has_reference = False
        self.norms: list[float] = []
        """Of the gradient of each update."""

    def add(
        self, loss: torch.Tensor, terms: Terms, trainer: torch.Tensor, engine: torch.Tensor, entropies: torch.Tensor
    ) -> None:
        """Add a micro-batch: each token's share of the loss, and its log-probability by trainer and engine, (tokens,)."""
        gap = trainer - engine
        self._has_reference |= terms.reference_kl is not None
        gap_kl = divergence(gap.double())
        counted = (
            loss,
            torch.ones_like(gap),
            entropies,
            terms.clipped,
            terms.ratio,
            gap.abs(),
            gap_kl,
            gap_kl.square(),
            torch.zeros_like(gap) if terms.reference_kl is None else terms.reference_kl,
        )
        self._sums += torch.stack([one.detach().double().sum() for one in counted])
        self._largest_gap = torch.maximum(self._largest_gap, gap.abs().max())

    @property
    def loss(self) -> float:
        """The sum of the updates' losses so far."""
        return float(self._sums[COUNTED.index("loss")])

    def gap_kl(self) -> tuple[float, float]:
        """Return the mean divergence between engine and trainer so far, in nats per token, and its standard error."""
        wanted = [COUNTED.index(name) for name in ("tokens", "gap_kl", "gap_kl_squared")]
        tokens, total, squares = self._sums[wanted].tolist()
        mean = total / max(1.0, tokens)
        spread = max(0.0, squares - tokens * mean * mean)
        return mean, math.sqrt(spread / (tokens * (tokens - 1))) if tokens > 1 else math.inf

    def numbers(self, updates: int) -> dict[str, Any]:
        """Return the step's numbers; `updates` are those that the loss is a mean over. None where no token was computed."""
        values = dict(zip(COUNTED, self._sums.tolist(), strict=True))
        tokens = values["tokens"]

        def mean(name: str) -> float | None:
            return values[name] / tokens if tokens else None

        found = {
            "loss": values["loss"] / updates,
            "grad_norm": sum(self.norms) / len(self.norms) if self.norms else 0.0,
            "updates": len(self.norms),
            "learned_tokens": int(tokens),
            "entropy": mean("entropy"),
            "clipped_share": mean("clipped"),
            "ratio": mean("ratio"),
            "log_prob_gap": mean("gap"),
            "log_prob_gap_largest": float(self._largest_gap),
            "log_prob_gap_kl": mean("gap_kl"),
        }
        return found | ({"reference_kl": mean("reference_kl")} if self._has_reference else {})
