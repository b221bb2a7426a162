"""The plot of three controlled days: load, storage, and power with the grid's CO2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .plant import CLOSING_HOUR, COP, OPENING_HOUR, STORAGE_KWH, Floats, Step
from .weather import DAYS, HOURS, Weather

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#1f4e8c", "#b5482f", "#1a7f4b", "#8a5fb0")
_LOAD, _CO2, _SHADE = "#66707f", "#9aa5b5", "#eef1f6"


def draw(weather: Weather, initial_kwh: float, steps: Mapping[str, Sequence[Step]]) -> Figure:
    """Draw the hours of one run or several, by name: four days, of which the last is only forecast.

    Business hours are shaded. Power is electric, in kW; a step's value holds for its whole hour.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 6.2), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    hours = np.arange(HOURS + 1)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        for day in range(DAYS + 1):
            panel.axvspan(24 * day + OPENING_HOUR, 24 * day + CLOSING_HOUR, color=_SHADE, linewidth=0, zorder=0)
    load, storage, power = axes
    load.stairs(weather.load, hours, color=_LOAD, label="load")
    storage.axhline(STORAGE_KWH, color=_LOAD, linewidth=0.8, linestyle=":")
    grid = power.twinx()
    grid.spines[["top"]].set_visible(False)
    grid.stairs(weather.co2, hours, color=_CO2, linestyle="--", label="CO2 of the grid")
    grid.set_ylim(bottom=0)
    grid.set_ylabel("kg CO2 / kWh")
    controlled = hours[: 24 * DAYS + 1]
    # Where two lines are the same, both are seen.
    for (name, run), colour, width in zip(steps.items(), _COLOURS, (2.4, 1.2, 1.2, 1.2), strict=False):
        energy = np.array([initial_kwh, *(float(step.energy[0]) for step in run)])
        storage.plot(controlled, energy, color=colour, linewidth=width, label=name)
        # The electricity of an hour follows from what was made: demand served, less what came from the storage.
        power.stairs(_power(weather, energy, run), controlled, color=colour, linewidth=width, label=name)
        unserved = np.array([float(step.unserved[0]) for step in run])
        if unserved.any():
            load.stairs(unserved, controlled, color=colour, linewidth=width, label=f"unserved, {name}")
    load.set_ylabel("load (kW)")
    storage.set_ylabel("storage (kWh)")
    power.set_ylabel("power (kW)")
    power.set_xticks(range(0, HOURS + 1, 12), [f"{weather.time(hour):%m-%d %H:%M}" for hour in range(0, HOURS + 1, 12)])
    power.tick_params(axis="x", labelrotation=30)
    power.set_xlim(0, HOURS)
    for panel in axes:
        panel.margins(y=0.08)
        panel.legend(
            frameon=False, fontsize="small", ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0
        )
    grid.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    load.set_title(weather.name, loc="left", fontsize="small")
    return figure


def _power(weather: Weather, energy: Floats, run: Sequence[Step]) -> Floats:
    """Return the heat pump's electric power in each hour, kW."""
    unserved = np.array([float(step.unserved[0]) for step in run])
    overflow = np.array([float(step.overflow[0]) for step in run])
    made = np.diff(energy) + weather.load[: len(run)] - unserved + overflow
    return np.asarray(made / COP)
