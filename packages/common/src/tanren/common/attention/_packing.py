"""Where packed samples begin and end, and how their scores are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch


@dataclass(frozen=True)
class Family:
    """A sample and those that go on from it, side by side: completions behind their prompt. Most samples stand alone."""

    lengths: tuple[int, ...]
    """In tokens, the first one's first."""

    @property
    def tokens(self) -> int:
        """Of all its samples."""
        return sum(self.lengths)


@dataclass(frozen=True)
class Shared:
    """What the samples that go on from another one attend to besides themselves."""

    before: tuple[slice, ...]
    """The tokens of each sample that others go on from."""
    after: tuple[slice, ...]
    """The tokens of those others, family by family."""
    cu_before: torch.Tensor
    """Cumulative lengths of `before` from 0, int32, (families + 1,)."""
    cu_after: torch.Tensor
    longest_before: int
    longest_after: int


@dataclass(frozen=True)
class Packing:
    """The samples of one row of tokens."""

    lengths: tuple[int, ...]
    """In tokens, in order."""
    cu_seqlens: torch.Tensor
    """Cumulative lengths from 0, int32, (samples + 1,), on the model's device."""
    follows: tuple[bool, ...] = ()
    """Of each sample, whether it goes on from the last one before it that does not; empty: none does."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str, follows: Sequence[bool] = ()) -> Packing:
        """Return the packing of samples of these lengths."""
        assert not follows or (len(follows) == len(lengths) and not follows[0]), (lengths, follows)
        return cls(tuple(lengths), _cumulative(lengths, device), tuple(follows) if any(follows) else ())

    @property
    def tokens(self) -> int:
        """Of all samples."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(self.lengths)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The samples in families, in order."""
        found: list[list[int]] = []
        for length, goes_on in zip(self.lengths, self.follows or (False,) * len(self.lengths), strict=True):
            if goes_on:
                found[-1].append(length)
            else:
                found.append([length])
        return tuple(Family(tuple(lengths)) for lengths in found)

    @cached_property
    def shared(self) -> Shared | None:
        """What is attended to across samples; None where every sample stands alone."""
        if not self.follows:
            return None
        starts = accumulate((family.tokens for family in self.families), initial=0)
        parts = [
            (start, start + family.lengths[0], start + family.tokens)
            for start, family in zip(starts, self.families, strict=False)
            if len(family.lengths) > 1
        ]
        before, after = ([end - start for start, end, _ in parts], [end - start for _, start, end in parts])
        device = self.cu_seqlens.device
        return Shared(
            tuple(slice(start, end) for start, end, _ in parts),
            tuple(slice(start, end) for _, start, end in parts),
            _cumulative(before, device),
            _cumulative(after, device),
            max(before),
            max(after),
        )


def _cumulative(lengths: Sequence[int], device: torch.device | str) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


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
