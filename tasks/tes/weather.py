"""Three days of demand and grid, and the day after, hour by hour: read from a file as it is, checked whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np

from tanren.common.data import MOST_FAULTS, Fault, read_csv
from tanren.common.errors import UserError
from tanren.common.values import finite_number

from .plant import CLOSING_HOUR, CREDIT_HOURS, OPENING_HOUR, Floats

DAYS = 3
"""Days that are controlled; the file has one more, to look ahead."""
HOURS = 24 * (DAYS + 1)
TIME, CO2, LOAD = "datetime", "CO2排出係数[kg-CO2/kWh]", "冷房需要[kW]"
UNITS = {CO2: "kg-CO2/kWh", LOAD: "kW"}
MOST = {CO2: 3.0, LOAD: 1000.0}
"""No grid emits 3 kg for a kWh (coal: 1), and the plant makes 100 kW: beyond stands another unit, or another column."""


@dataclass(frozen=True)
class Weather:
    """Demand and grid of four days from midnight on."""

    name: str
    begin: datetime
    co2: Floats
    """(96,), kg of CO2 for each electric kWh."""
    load: Floats
    """(96,), cooling demand in kW; 0 outside business hours."""

    def __post_init__(self) -> None:
        """Hold to what the optimum builds on: outside business hours nothing happens."""
        hours = np.arange(HOURS) % 24
        assert self.co2.shape == self.load.shape == (HOURS,)
        assert not self.load[(hours < OPENING_HOUR) | (hours >= CLOSING_HOUR)].any(), "load outside business hours"

    @cached_property
    def decisions(self) -> tuple[int, ...]:
        """The hours, counted from the beginning, at which a decision is made: 30."""
        return tuple(24 * day + hour for day in range(DAYS) for hour in range(OPENING_HOUR, CLOSING_HOUR))

    @property
    def end(self) -> int:
        """The hour at which what is left in the storage is credited: closing time of the last day."""
        return self.decisions[-1] + 1

    def business_hours(self, day: int) -> slice:
        """Return the business hours of a day (0 to 3)."""
        return slice(24 * day + OPENING_HOUR, 24 * day + CLOSING_HOUR)

    def low_co2(self, day: int) -> float:
        """Return the mean of the lowest CO2 factors among a day's business hours, kg-CO2/kWh."""
        return float(np.sort(self.co2[self.business_hours(day)])[:CREDIT_HOURS].mean())

    def time(self, hour: int) -> datetime:
        """Return the time of an hour counted from the beginning."""
        return self.begin + timedelta(hours=hour)


def read_weather(path: Path) -> Weather:
    """Read a file of 96 hourly rows from midnight on, with the columns `datetime`, `CO2排出係数[kg-CO2/kWh]`, `冷房需要[kW]`.

    Raises UserError with file, line and column for whatever is missing, no number, out of range or out of turn.
    """
    columns: dict[str, list[float]] = {CO2: [], LOAD: []}
    times: list[datetime] = []
    faults: list[str] = []
    for place, cells in _records(path):
        missing = [name for name in (TIME, CO2, LOAD) if name not in cells]
        if missing:
            raise UserError(f"{path}: found the columns {list(cells)}, expected {TIME}, {CO2} and {LOAD}")
        faults += [f"{place}: {wrong}" for wrong in _take(cells, times, columns)]
    if not faults and len(times) != HOURS:
        faults = [
            f"{path}: found {len(times)} rows, expected {HOURS}: {DAYS} days, and one to look ahead, hour by hour"
        ]
    if faults:
        more = f"\n... and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise UserError("\n".join(faults[:MOST_FAULTS]) + more)
    return Weather(path.stem, times[0], np.array(columns[CO2]), np.array(columns[LOAD]))


def _records(path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        with path.open("rb") as file:
            found = list(read_csv(file, str(path)))
    except IsADirectoryError:
        raise UserError(
            f"the weather cannot be read: {path} is a folder; name its files, a week each: {path}/*.csv"
        ) from None
    except OSError as error:
        raise UserError(f"the weather cannot be read: {path}: {error.strerror}; check the path") from None
    faults = [record for record in found if isinstance(record, Fault)]
    if faults:
        raise UserError("\n".join(str(fault) for fault in faults[:MOST_FAULTS]))
    return [(record.place, record.value) for record in found if not isinstance(record, Fault)]


def _take(cells: dict[str, str], times: list[datetime], columns: dict[str, list[float]]) -> list[str]:
    wrong = []
    try:
        time = datetime.fromisoformat(cells[TIME].strip())
    except ValueError:
        wrong.append(f"column {TIME}: found {cells[TIME]!r}, expected a time such as 2025-04-07 08:00:00")
        time = times[-1] + timedelta(hours=1) if times else datetime.min
    else:
        expected = times[-1] + timedelta(hours=1) if times else datetime.combine(time.date(), datetime.min.time())
        if time != expected:
            wrong.append(f"column {TIME}: found {time}, expected {expected}: hour by hour, from midnight on")
    times.append(time)
    for name, values in columns.items():
        value = finite_number(cells[name])
        if value is None or not 0 <= value <= MOST[name]:
            wrong.append(
                f"column {name}: found {cells[name]!r}, expected a number from 0 to {MOST[name]:g} {UNITS[name]}"
            )
        elif name == LOAD and value > 0 and not OPENING_HOUR <= time.hour < CLOSING_HOUR:
            wrong.append(
                f"column {name}: found {cells[name]} at {time:%H:%M}, expected 0: outside of {OPENING_HOUR}:00 to "
                f"{CLOSING_HOUR}:00 the heat pump is off"
            )
        values.append(0.0 if value is None else value)
    return wrong
