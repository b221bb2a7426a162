"""The plant: a heat pump that makes cold, and a storage that takes what is too much and gives what is missing.

Everything is per hour, so kW and kWh of an hour are the same number. All functions take numbers or numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OUTPUT_KW = 100.0
"""Cold that the heat pump makes at full output, thermal."""
COP = 4.0
"""Thermal kWh for each electric kWh."""
STORAGE_KWH = 300.0
"""What the storage holds, thermal. It loses nothing, and is charged and emptied as fast as asked."""
PENALTY_KG_PER_KWH = 10.0
"""Counted for each thermal kWh of demand that is not served."""
SCALE = 6.0
"""Values are -kg / SCALE: an episode's value is of the order of 10."""
LEVELS = (0.0, 1 / 3, 2 / 3, 1.0)
"""The heat pump's output of each action, as a share of full output."""
ACTIONS = len(LEVELS)
OPENING_HOUR, CLOSING_HOUR = 8, 18
"""Decisions are made at 8:00, 9:00, ..., 17:00; outside, the heat pump is off."""
CREDIT_HOURS = 5
"""What is left at the end saves the electricity of the hours that are lowest in CO2 on the next day: so many."""


_OUTPUTS = OUTPUT_KW * np.array(LEVELS)


@dataclass(frozen=True)
class Step:
    """What happens in one hour. Each field is an array over plants."""

    energy: Floats
    """kWh in the storage at the hour's end."""
    carbon: Floats
    """kg of CO2 by the heat pump's electricity."""
    served: Floats
    """kWh of demand that were served, by heat pump and storage."""
    unserved: Floats
    """kWh of demand that were not."""
    overflow: Floats
    """kWh that were made and found no room; their electricity counts."""


def advance(energy: Any, action: Any, load: Any, co2: Any) -> Step:
    """Run one hour: `energy` in kWh, `action` 0 to 3, `load` in kW, `co2` in kg for each electric kWh. They broadcast."""
    made = _OUTPUTS[action]
    left = np.asarray(energy, dtype=np.float64) + made - load
    return Step(
        energy=np.minimum(np.maximum(left, 0.0), STORAGE_KWH),
        carbon=made / COP * co2,
        served=np.minimum(load, made + energy),
        unserved=np.maximum(0.0, -left),
        overflow=np.maximum(0.0, left - STORAGE_KWH),
    )


def reward(step: Step) -> Floats:
    """Return the reward of an hour: -(carbon + penalty for what was not served) / SCALE."""
    return np.asarray(-(step.carbon + PENALTY_KG_PER_KWH * step.unserved) / SCALE)
