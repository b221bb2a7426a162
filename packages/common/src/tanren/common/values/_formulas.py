"""What a state's action values say of each action. Values are to be maximised: a cost enters with its sign turned."""

from __future__ import annotations

import math
from collections.abc import Sequence


def boltzmann(values: Sequence[float], tau: float) -> tuple[float, ...]:
    """Return softmax(values / tau), one reward in [0, 1] for each action, their sum 1.

    `tau` has the unit of the values: a difference of tau in value is a factor e in reward. Values are finite, tau is above 0.
    """
    highest = max(values)
    weights = [
        math.exp((value - highest) / tau) for value in values
    ]  # the largest is 1: none overflows, the sum is never 0
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def advantage(values: Sequence[float]) -> tuple[float, ...]:
    """Return value - max(values) for each action: 0 for the best ones, below 0 for the others, in the unit of the values."""
    highest = max(values)
    return tuple(value - highest for value in values)


def regret(values: Sequence[float], action: int) -> float:
    """Return what an action loses against the best one: 0 or more, in the unit of the values."""
    return max(values) - values[action]


def best_actions(values: Sequence[float]) -> tuple[int, ...]:
    """Return every action whose value is the highest, in ascending order: more than one where they tie."""
    highest = max(values)
    return tuple(action for action, value in enumerate(values) if value == highest)


def best_action(values: Sequence[float]) -> int:
    """Return the action of the highest value, the smallest of those that tie."""
    return best_actions(values)[0]
