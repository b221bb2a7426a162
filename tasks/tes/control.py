"""The pack in closed loop, for `evaluate control`: weeks to control, policies without a model, what an episode came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tanren.common.control_contract import OPTIMAL, ControlOutcome
from tanren.common.control_contract import Episode as AnyEpisode
from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.common.values import best_actions

from .generate import generated
from .optimum import Optimum
from .plant import ACTIONS, STORAGE_KWH, advance
from .prompts import Style
from .simulation import OFF, Simulation
from .states import State
from .weather import Weather, read_weather

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREEDY_RULE = "greedy-rule"
"""The least output that, with the storage, serves the hour's demand; where none does, the one that leaves least unserved."""
_NOTHING_KWH = 1e-9  # rounding
_ALWAYS = {f"always-{action}": action for action in range(ACTIONS)}
POLICIES = (*_ALWAYS, GREEDY_RULE, OPTIMAL)


def weeks(files: Sequence[Path], *, generate: int, seed: int, initial_kwh: float, prompt: Style) -> list[Week]:
    """Return the weeks of weather files, or so many of the split `heldout` that are made from the seed.

    Raises UserError for neither or both, a file with a fault, a name that comes twice, and an energy that the storage does
    not hold.
    """
    if bool(files) == bool(generate) or generate < 0:
        raise UserError("name weather files, or how many weathers to make with --generate N: one of the two")
    if not 0 <= initial_kwh <= STORAGE_KWH:
        raise UserError(f"--initial-kwh {initial_kwh:g}: expected 0 to {STORAGE_KWH:g}, what the storage holds")
    weathers = [read_weather(path) for path in files] or list(islice(generated("heldout", seed), generate))
    names = [weather.name for weather in weathers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"{twice[0]}: named twice; a week counts once, and the log tells weeks apart by the file's name"
        )
    return [Week(weather, initial_kwh, prompt) for weather in weathers]


class Week:
    """A weather to control, from so much energy on."""

    policies = POLICIES
    no_decision = (
        "the heat pump stays off and the storage serves what it can, so demand that it cannot serve counts as unserved"
    )

    def __init__(self, weather: Weather, initial_kwh: float, style: Style) -> None:
        """Prepare to begin episodes; `style` is that of the prompts."""
        self.weather, self.initial_kwh, self.style = weather, initial_kwh, style

    @property
    def name(self) -> str:
        """The weather's."""
        return self.weather.name

    @property
    def decisions(self) -> int:
        """Those of three days."""
        return len(self.weather.decisions)

    @cached_property
    def optimum(self) -> Optimum:
        """The value of every action in every state."""
        return Optimum(self.weather)

    def begin(self) -> Episode:
        """Return a new episode."""
        return Episode(self)

    def action(self, policy: str, episode: AnyEpisode) -> int:
        """Return what one of `policies` does now; of actions of the same value the smallest."""
        assert isinstance(episode, Episode)
        if policy in _ALWAYS:
            return _ALWAYS[policy]
        if policy == GREEDY_RULE:
            hour, energy = episode.hour, episode.energy
            step = advance(energy, np.arange(ACTIONS), self.weather.load[hour], self.weather.co2[hour])
            return int((step.unserved <= step.unserved.min() + _NOTHING_KWH).argmax())
        assert policy == OPTIMAL, policy
        return int(self.optimum.action_values(episode.hour, episode.energy).argmax())

    def figure(self, episodes: Mapping[str, AnyEpisode]) -> Figure:
        """Draw load, storage, and power with the grid's CO2, hour by hour, for each of the finished episodes."""
        from .plot import draw

        own = {name: one for name, one in episodes.items() if isinstance(one, Episode)}
        return draw(self.weather, self.initial_kwh, {name: one.simulation.steps for name, one in own.items()})


class Episode:
    """A week under control."""

    def __init__(self, week: Week) -> None:
        """Begin at midnight of the first day; it stands at the first decision then."""
        self.week = week
        self.simulation = Simulation(week.weather, week.initial_kwh)
        self._actions: list[int | None] = []

    @property
    def done(self) -> bool:
        """No decision is left."""
        return self.simulation.done

    @property
    def hour(self) -> int:
        """Hours since the beginning."""
        return self.simulation.hour

    @property
    def energy(self) -> float:
        """kWh in the storage now."""
        return float(self.simulation.energy[0])

    def row(self) -> Row:
        """Return the state that waits as a row of the pack: the prompt that is trained on."""
        values = tuple(float(one) for one in self.week.optimum.action_values(self.hour, self.energy))
        return State(self.week.weather, 0, self.hour, self.energy, values, self.week.style).row()

    def state(self) -> Mapping[str, Any]:
        """Return time, energy (kWh), load (kW), CO2 factor (kg/kWh), the value of each action here, and the best ones."""
        weather = self.week.weather
        values = self.week.optimum.action_values(self.hour, self.energy).tolist()
        return {
            "hour": self.hour,
            "time": weather.time(self.hour).isoformat(),
            "energy_kwh": self.energy,
            "load_kw": float(weather.load[self.hour]),
            "co2_kg_per_kwh": float(weather.co2[self.hour]),
            "action_values": values,
            "best_actions": best_actions(values),
        }

    def decide(self, action: int | None) -> Mapping[str, Any]:
        """Take an action; None leaves the heat pump off for this hour, and is kept apart from a decision to do so."""
        self._actions.append(action)
        step = self.simulation.decide(np.array([OFF if action is None else action]))
        return {
            "carbon_kg_co2": float(step.carbon[0]),
            "unserved_kwh": float(step.unserved[0]),
            "overflow_kwh": float(step.overflow[0]),
            "energy_after_kwh": float(step.energy[0]),
        }

    def outcome(self) -> ControlOutcome:
        """Return what the three days came to."""
        found = self.simulation.outcome()
        return ControlOutcome(
            float(found.net[0]), float(found.unserved[0]), float(found.penalised[0]), tuple(self._actions)
        )
