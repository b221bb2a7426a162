"""Makes weather: demand and grid of four days with a plausible course over the day and the year, from a seed.

The shape is that of the twelve weeks that the pack was first used with (a Japanese office and grid, April to June): at night
0.5 kg of CO2 a kWh, at noon 0.2 to 0.3 under a clear sky; a load of 15 to 40 kW in spring and up to twice that in summer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

from tanren.common.task_contract import Split

from .plant import CLOSING_HOUR, OPENING_HOUR, Floats
from .weather import DAYS, HOURS, Weather

FIRST_DAY, LAST_DAY = 91, 304  # of the year: April to October, when an office is cooled
YEAR = 2025
# kg of CO2 a kWh. Clouds of one day take up to two thirds of what the sun gives.
NIGHT, SUN, CLOUDED, EVENING = 0.50, 0.29, 0.65, 0.06
MILD, SUMMER = 18.0, 38.0  # kW: mean load of a day at the season's edge, and what midsummer adds
MOST_KW = 95.0  # the plant makes 100
_OFFICE = np.array([1.02, 0.92, 0.94, 1.0, 0.95, 0.99, 1.03, 1.12, 1.0, 1.03])  # of the day's mean, 8:00 to 17:00


def generated(split: Split, seed: int) -> Iterator[Weather]:
    """Yield weathers without end; the first are the same however many are taken. No two splits share a first day."""
    number = 0
    for draw in range(1 << 30):
        random = np.random.default_rng(_bits(f"tes/{seed}/{split}/{draw}"))
        day = int(random.integers(FIRST_DAY, LAST_DAY + 1))
        if _held_out(day) != (split == "heldout"):
            continue
        number += 1
        yield _weather(f"{split}-{seed}-{number}", day, random)


def _held_out(day: int) -> bool:
    """Whether weathers that begin on this day of the year are held out: a quarter of the weeks, whatever the seed."""
    return _bits(f"tes/week {day // 7}") % 4 == 0


def _weather(name: str, day: int, random: np.random.Generator) -> Weather:
    begin = datetime(YEAR, 1, 1) + timedelta(days=day - 1)
    season = math.sin(math.pi * (day - FIRST_DAY) / (LAST_DAY - FIRST_DAY))
    co2, load = np.empty(HOURS), np.zeros(HOURS)
    warmth = random.normal()
    for one in range(DAYS + 1):
        warmth = 0.6 * warmth + 0.8 * random.normal()  # days that follow one another are alike; variance 1
        clouds = float(random.beta(1.2, 1.6))
        hours = slice(24 * one, 24 * one + 24)
        co2[hours] = _grid(clouds, season, random)
        mean = max(8.0, MILD + SUMMER * season + (4 + 4 * season) * warmth)
        office = mean * _OFFICE * (1 + 0.05 * random.normal(size=len(_OFFICE)))
        load[24 * one + OPENING_HOUR : 24 * one + CLOSING_HOUR] = np.clip(office, 0.0, MOST_KW)
    return Weather(name, begin, np.round(co2, 3), np.round(load, 3))


def _grid(clouds: float, season: float, random: np.random.Generator) -> Floats:
    hours = np.arange(24)
    sun = np.exp(-(((hours - 11.8) / (2.9 + 0.6 * season)) ** 2))
    evening = np.exp(-(((hours - 18.5) / 1.8) ** 2))
    noise = np.convolve(random.normal(scale=0.008, size=26), np.ones(3) / 3, mode="valid")
    return np.asarray(np.clip(NIGHT - SUN * (1 - CLOUDED * clouds) * sun - EVENING * evening + noise, 0.05, 0.8))


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
