"""Where packed samples begin and end, and how their scores are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch


@dataclass(frozen=True)
class Packing:
    """The samples of one row of tokens."""

    lengths: tuple[int, ...]
    """In tokens, in order."""
    cu_seqlens: torch.Tensor
    """Cumulative lengths from 0, int32, (samples + 1,), on the model's device."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> Packing:
        """Return the packing of samples of these lengths."""
        ends = [0, *accumulate(lengths)]
        return cls(tuple(lengths), torch.tensor(ends, dtype=torch.int32, device=device))

    @property
    def tokens(self) -> int:
        """Of all samples."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(self.lengths)


@dataclass(frozen=True)
class Scores:
    """What happens to the scores of one layer before and in the softmax."""

    scale: float
    window: int = 0
    """A token sees itself and the window - 1 tokens before it; 0: all before it."""
    softcap: float = 0.0
    sinks: torch.Tensor | None = None
    """A learned score for each head, (heads,), that takes its share of the softmax and gives nothing."""
    dropout: float = 0.0
