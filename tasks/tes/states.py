"""States that are visited in the closed loop, each with the value of its actions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tanren.common.task_contract import Message, Row
from tanren.common.values import VALUES_KEY, best_action

from .optimum import Optimum
from .plant import ACTIONS, STORAGE_KWH
from .prompts import Style, build_prompt
from .simulation import Simulation
from .weather import Weather

ASTRAY = 0.3
"""Share of random actions in the episodes behind the first: a model must also know the states that mistakes lead to."""


@dataclass(frozen=True)
class State:
    """A decision in a weather."""

    weather: Weather
    episode: int
    hour: int
    """Since the beginning."""
    energy: float
    """kWh in the storage."""
    values: tuple[float, ...]
    """Of each action, to be maximised."""
    style: Style = "full"
    """Of the prompt."""

    @property
    def id(self) -> str:
        """Weather, episode and hour."""
        return f"{self.weather.name}/{self.episode}/{self.hour}"

    @property
    def best(self) -> int:
        """The best action, the smallest of those that tie."""
        return best_action(self.values)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns that ask for the decision."""
        return build_prompt(self.weather, self.hour, self.energy, self.style)

    def row(self) -> Row:
        """Return the state as a row."""
        metadata = {
            "weather": self.weather.name,
            "timestamp": self.weather.time(self.hour).isoformat(),
            "energy_kwh": self.energy,
            VALUES_KEY: list(self.values),
        }
        return row_of(self.id, self.prompt, self.best, metadata)


def row_of(name: str, prompt: tuple[Message, ...], best: int, metadata: dict[str, object]) -> Row:
    """Return a row whose answer is the best action."""
    return Row(name, prompt, f"[{best}]", f"[{best}]", best, metadata)


def visited(weather: Weather, initial_kwh: float, episodes: int, seed: int, style: Style = "full") -> Iterator[State]:
    """Yield the 30 states of each episode. The first follows the optimum from `initial_kwh`.

    The others begin with any energy and go astray now and then; they depend on the weather's name and the seed alone.
    """
    optimum = Optimum(weather)
    for episode in range(episodes):
        digest = hashlib.sha256(f"tes/{seed}/{weather.name}/{episode}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        astray = ASTRAY if episode else 0.0
        simulation = Simulation(weather, random.uniform(0, STORAGE_KWH) if episode else initial_kwh)
        while not simulation.done:
            energy = float(simulation.energy[0])
            values = tuple(float(one) for one in optimum.action_values(simulation.hour, energy))
            state = State(weather, episode, simulation.hour, energy, values, style)
            yield state
            wrong = random.random() < astray
            simulation.decide(np.array([random.integers(ACTIONS) if wrong else state.best]))
