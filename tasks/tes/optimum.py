"""The value of every action in every state, exactly: dynamic programming over hours and the energy in the storage.

The value of a state is piecewise linear in the energy: the last one is linear, an hour shifts, cuts off and adds a
linear penalty, and the best of four actions is the largest of four such functions. So a value function is kept as its
corners, nothing is put on a grid, and the values are those of the plant up to rounding (about 1e-12).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .plant import ACTIONS, LEVELS, OUTPUT_KW, SCALE, STORAGE_KWH, Floats, advance, reward
from .simulation import Policy, credit
from .weather import DAYS, Weather

DECIMALS = 9
"""Of the values that are given: rounding of thirty hours stays below."""
_SAME_KWH = 1e-9
"""Corners closer than this are one: rounding of a sum of thirty hours makes two of it."""
_STRAIGHT = 1e-12
"""A corner that changes the value by less is none."""


@dataclass(frozen=True)
class Corners:
    """A piecewise linear function of the energy: its corners (kWh, ascending from 0 to 300) and its values there."""

    at: Floats
    values: Floats

    def __call__(self, energy: Floats) -> Floats:
        """Return the values at these energies (kWh)."""
        found: Floats = np.interp(energy, self.at, self.values)
        return found


class Optimum:
    """The best that can be reached in a weather, from any hour and energy on."""

    def __init__(self, weather: Weather) -> None:
        """Solve backwards from the end."""
        self.weather = weather
        ends = np.array([0.0, STORAGE_KWH])
        last = Corners(ends, np.zeros(2))
        self._ahead: list[Corners] = [last] * (24 * DAYS + 1)
        for hour in reversed(range(24 * DAYS)):
            if hour in weather.decisions:
                self._ahead[hour] = self._best(hour)
            else:  # off, and without load: nothing happens
                self._ahead[hour] = self._ahead[hour + 1]

    def action_values(self, hour: int, energy: float | Floats) -> Floats:
        """Return the value of each action at an hour (from the beginning) and energy (kWh), best decisions behind it.

        Shape (..., 4): what follows in rewards, undiscounted, the credit for what is left included. To nine decimals, so that
        actions of the same value tie.
        """
        return np.moveaxis(self._values(hour, np.asarray(energy)), 0, -1).round(DECIMALS)

    def value(self, hour: int, energy: float | Floats) -> Floats:
        """Return what the best decisions reach from an hour and energy on."""
        return self._ahead[hour](np.asarray(energy))

    def policy(self) -> Policy:
        """Return the policy that takes the best action, the smallest of those that tie."""

        return lambda simulation: self.action_values(simulation.hour, simulation.energy).argmax(axis=-1)

    def _values(self, hour: int, energy: Floats) -> Floats:
        """Return the value of each action at these energies, shape (4, ...)."""
        actions = np.arange(ACTIONS).reshape(-1, *[1] * energy.ndim)
        step = advance(energy, actions, self.weather.load[hour], self.weather.co2[hour])
        found = reward(step) + self._ahead[hour + 1](step.energy)
        if hour + 1 == self.weather.end:
            found += credit(self.weather, step.energy) / SCALE
        return found

    def _best(self, hour: int) -> Corners:
        """Return the value function before an hour in which the best action is taken."""
        corners = [np.array([0.0, STORAGE_KWH])]
        for level in LEVELS:
            gain = OUTPUT_KW * level - self.weather.load[hour]
            # The corners of the hour behind, seen from before it; where the storage runs empty, and where it is full.
            corners += [self._ahead[hour + 1].at - gain, np.array([-gain, STORAGE_KWH - gain])]
        at = _distinct(np.concatenate(corners))
        at = _distinct(np.concatenate([at, *_crossings(at, self._values(hour, at))]))
        return _without_straight(at, self._values(hour, at).max(axis=0))


def _distinct(at: Floats) -> Floats:
    at = np.sort(at[(at >= 0.0) & (at <= STORAGE_KWH)])
    kept: Floats = at[np.concatenate([[True], np.diff(at) > _SAME_KWH])]
    kept[-1] = STORAGE_KWH
    return kept


def _crossings(at: Floats, values: Floats) -> list[Floats]:
    """Return where two of the functions (rows of `values`, linear between the points `at`) cross."""
    found = []
    for first, second in combinations(values, 2):
        gap = first - second
        left, right = gap[:-1], gap[1:]
        between = left * right < 0
        share = left[between] / (left[between] - right[between])
        found.append(at[:-1][between] + share * np.diff(at)[between])
    return found


def _without_straight(at: Floats, values: Floats) -> Corners:
    """Leave out the points between which nothing bends."""
    while len(at) > 2:
        line = values[:-2] + (values[2:] - values[:-2]) * (at[1:-1] - at[:-2]) / (at[2:] - at[:-2])
        straight = np.abs(values[1:-1] - line) <= _STRAIGHT * np.maximum(1.0, np.abs(values[1:-1]))
        # Of neighbours only every other one at a time: the next look is along the new line.
        straight[1:] &= ~straight[:-1]
        if not straight.any():
            break
        keep = np.concatenate([[True], ~straight, [True]])
        at, values = at[keep], values[keep]
    return Corners(at, values)
