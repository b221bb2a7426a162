"""The closed loop: three days of the plant, many runs at once, one decision after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .plant import ACTIONS, COP, PENALTY_KG_PER_KWH, SCALE, STORAGE_KWH, Floats, Ints, Step, advance
from .weather import DAYS, Weather

OFF = 0
"""The action outside business hours."""
Policy = Callable[["Simulation"], Ints]
"""Returns an action for each run of a simulation that waits for a decision."""


@dataclass(frozen=True)
class Outcome:
    """What three days came to. Each is an array over runs."""

    carbon: Floats
    """kg of CO2 that the heat pump emitted."""
    credit: Floats
    """kg of CO2 that what is left in the storage saves on the next day."""
    unserved: Floats
    """kWh of demand that were not served."""
    actions: Ints
    """(runs, 30)."""

    @property
    def net(self) -> Floats:
        """Net emissions in kg: emitted less credited. Says nothing without `unserved`: a plant that is off emits nothing."""
        return self.carbon - self.credit

    @property
    def penalised(self) -> Floats:
        """Net emissions in kg with the penalty for unserved demand: what is minimised."""
        return self.net + PENALTY_KG_PER_KWH * self.unserved

    @property
    def value(self) -> Floats:
        """The sum of all rewards: -penalised / SCALE."""
        return -self.penalised / SCALE


class Simulation:
    """Runs of one weather that stand at the same decision; `decide` takes an action for each and goes on to the next."""

    def __init__(self, weather: Weather, initial_kwh: float | Floats, runs: int | None = None) -> None:
        """Begin at midnight with so much in the storage (0 to 300 kWh), a number for all runs or one for each."""
        energy = np.atleast_1d(np.asarray(initial_kwh, dtype=np.float64))
        if not ((energy >= 0) & (energy <= STORAGE_KWH)).all():
            raise ValueError(f"the storage begins with {initial_kwh} kWh, expected 0 to {STORAGE_KWH:g}")
        self.weather = weather
        self.energy = np.repeat(energy, runs) if runs is not None else energy.copy()
        """(runs,), kWh in the storage now."""
        self.hour = 0
        """Hours since the beginning."""
        self.steps: list[Step] = []
        """What happened in each hour so far."""
        self.decided: list[Ints] = []
        self._run_to_next_decision()

    @property
    def done(self) -> bool:
        """No decision is left."""
        return self.hour >= 24 * DAYS

    def decide(self, actions: Ints) -> Step:
        """Take an action for each run; return what happened in that hour. Raises ValueError for what is no action."""
        chosen = np.asarray(actions)
        whole = np.issubdtype(chosen.dtype, np.integer)
        if chosen.shape != self.energy.shape or not whole or not ((chosen >= 0) & (chosen < ACTIONS)).all():
            raise ValueError(f"actions {actions!r}: expected {len(self.energy)} whole numbers from 0 to {ACTIONS - 1}")
        self.decided.append(chosen.astype(np.int64))
        step = self._run_hour(self.decided[-1])
        self._run_to_next_decision()
        return step

    def outcome(self) -> Outcome:
        """Return what the three days came to, once all is decided."""
        assert self.done, "decisions are left"
        at_end = self.steps[self.weather.end - 1].energy
        return Outcome(
            carbon=np.sum([step.carbon for step in self.steps], axis=0),
            credit=credit(self.weather, at_end),
            unserved=np.sum([step.unserved for step in self.steps], axis=0),
            actions=np.stack(self.decided, axis=1),
        )

    def _run_hour(self, actions: Ints) -> Step:
        step = advance(self.energy, actions, self.weather.load[self.hour], self.weather.co2[self.hour])
        self.steps.append(step)
        self.energy = step.energy
        self.hour += 1
        return step

    def _run_to_next_decision(self) -> None:
        while not self.done and self.hour not in self.weather.decisions:
            self._run_hour(np.full(len(self.energy), OFF))


def credit(weather: Weather, energy: Floats) -> Floats:
    """Return the kg of CO2 that so much in the storage at the last closing time saves on the next day."""
    return np.asarray(weather.low_co2(DAYS) * energy / COP)


def run(weather: Weather, policy: Policy, initial_kwh: float | Floats, runs: int | None = None) -> Outcome:
    """Run a policy over all three days."""
    simulation = Simulation(weather, initial_kwh, runs)
    while not simulation.done:
        simulation.decide(policy(simulation))
    return simulation.outcome()


def always(action: int) -> Policy:
    """Return the policy that takes the same action at every decision."""
    return lambda simulation: np.full(len(simulation.energy), action)
