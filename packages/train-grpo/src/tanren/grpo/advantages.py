"""Rewards to advantages: how much better a completion is than the others of its prompt, in float64.

A reward of None is no reward: the completion is in no mean, in no deviation, and gets no advantage (None), so that nothing
is learned from it. It is not 0, which would say that it was bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tanren.grpo.config import Scale

Rewards = Sequence[float | None]
# Added to a standard deviation before it divides, as TRL does: a spread that is next to nothing is not blown up.
LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class Advantages:
    """Of the groups of a step."""

    values: list[list[float | None]]
    """Of each completion, in the order of the rewards; None where it has no reward."""
    equal: int
    """Groups of two rewards or more that are all the same: nothing is learned from them."""
    alone: int
    """Groups of which one reward is left: it has nothing to be compared with."""
    empty: int
    """Groups of which none is left."""

    @property
    def without_signal(self) -> int:
        """Groups in which no advantage differs from 0."""
        return self.equal + self.alone + self.empty

    def sentence(self) -> str:
        """Say in words why groups teach nothing; empty where all do."""
        told = []
        if self.equal:
            told.append(f"all rewards of {self.equal} of {len(self.values)} groups are equal")
        if self.alone:
            told.append(f"{self.alone} of {len(self.values)} groups have one reward alone")
        if self.empty:
            told.append(f"{self.empty} of {len(self.values)} groups have no reward")
        if not told:
            return ""
        nothing = self.without_signal == len(self.values)
        return ("loss 0 because " if nothing else "no advantage in some groups: ") + " and ".join(told)


def has_spread(rewards: Rewards) -> bool:
    """Whether a group's rewards differ from one another."""
    return len({reward for reward in rewards if reward is not None}) > 1


def advantages_of(groups: Sequence[Rewards], scale: Scale) -> Advantages:
    """Return reward - mean of the group, divided by nothing, by the group's or by the step's standard deviation.

    The mean over the group: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; without division: Liu et al. 2025,
    arXiv:2503.20783; by the batch's deviation: Hu et al. 2025, arXiv:2501.03262. Deviations have n - 1 below the line, and
    `LEAST_DEVIATION` is added to them. A group without spread gets exactly 0, whatever the mean rounds to.
    """
    every = [reward for rewards in groups for reward in rewards if reward is not None]
    batch = _deviation(every)
    values: list[list[float | None]] = []
    counts = {"equal": 0, "alone": 0, "empty": 0}
    for rewards in groups:
        left = [reward for reward in rewards if reward is not None]
        if not has_spread(rewards):
            counts["empty" if not left else "alone" if len(left) == 1 else "equal"] += 1
            values.append([None if reward is None else 0.0 for reward in rewards])
            continue
        mean = float(np.mean(np.array(left, dtype=np.float64)))
        divisor = {"none": 1.0, "group": _deviation(left) + LEAST_DEVIATION, "batch": batch + LEAST_DEVIATION}[scale]
        values.append([None if reward is None else (reward - mean) / divisor for reward in rewards])
    return Advantages(values, **counts)


def _deviation(rewards: Sequence[float]) -> float:
    return float(np.std(np.array(rewards, dtype=np.float64), ddof=1)) if len(rewards) > 1 else 0.0
