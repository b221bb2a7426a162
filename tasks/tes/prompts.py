"""The prompt of a state: one builder, for rows, for value files and for the closed loop."""

from __future__ import annotations

from typing import Literal

from tanren.common.task_contract import Message

from .plant import CLOSING_HOUR, COP, CREDIT_HOURS, LEVELS, OPENING_HOUR, OUTPUT_KW, PENALTY_KG_PER_KWH, STORAGE_KWH
from .weather import DAYS, Weather

Style = Literal["full", "short"]
SYSTEM = (
    "You run the cooling plant of an office building. Every hour you choose how much cold the heat pump makes. "
    "End your answer with a line that has the chosen action in square brackets and nothing else, such as [2]."
)
_NAMES = ("off", "low", "medium", "full")


def build_prompt(weather: Weather, hour: int, energy: float, style: Style = "full") -> tuple[Message, ...]:
    """Return the turns that ask for the decision at an hour (from the beginning) with so much energy (kWh) in the storage.

    Loads and energy are exact to 0.1, CO2 factors to 0.001; hours that are past are named, without their numbers. `short`
    sums up what is ahead in one line of rounded numbers, for small models that are trained to answer it.
    """
    if style == "short":
        return (Message("user", _short(weather, hour, energy)),)
    day, now = divmod(hour, 24)
    tomorrow = weather.business_hours(day + 1)
    lines = [
        f"Goal: emit as little CO2 as possible in {DAYS} days, and leave no cooling load unserved.",
        "",
        f"Now: {weather.time(hour):%Y-%m-%d %H:%M}, day {day + 1} of {DAYS}",
        f"Energy in the storage: {energy:.1f} kWh",
        "",
        f"Forecast for today, until the office closes at {CLOSING_HOUR}:00:",
        *(_forecast(weather, 24 * day + one, hour) for one in range(OPENING_HOUR, CLOSING_HOUR)),
        "",
        f"Forecast for the next day, {OPENING_HOUR}:00 to {CLOSING_HOUR}:00:",
        f"- mean load {weather.load[tomorrow].mean():.1f} kW",
        f"- mean CO2 of the {CREDIT_HOURS} lowest hours {weather.low_co2(day + 1):.3f} kg/kWh",
        f"- lowest CO2 {weather.co2[tomorrow].min():.3f} kg/kWh",
        "",
        "Plant:",
        f"- heat pump: {OUTPUT_KW:.0f} kW of cold at full output; {COP:.0f} kWh of cold take 1 kWh of electricity",
        f"- storage: up to {STORAGE_KWH:.0f} kWh, without losses; it takes what is made beyond the load, and gives what is missing",
        "- what finds no room in the storage is lost, its electricity counts",
        f"- a kWh of load that is not served counts as {PENALTY_KG_PER_KWH:.0f} kg of CO2",
        f"- what is in the storage at {CLOSING_HOUR}:00 on day {DAYS} is credited with the CO2 that it saves on the next day",
        "",
        "Actions for the hour that begins now:",
        *(f"[{action}] {name}: {OUTPUT_KW * LEVELS[action]:.1f} kW of cold" for action, name in enumerate(_NAMES)),
        "",
        f"Which action, at {now:02d}:00?",
    ]
    return (Message("system", SYSTEM), Message("user", "\n".join(lines)))


def _short(weather: Weather, hour: int, energy: float) -> str:
    day = hour // 24
    left, tomorrow = slice(hour, weather.business_hours(day).stop), weather.business_hours(day + 1)
    return (
        f"Hour {hour % 24}, day {day + 1} of {DAYS}. CO2 {weather.co2[hour]:.2f}, lowest ahead {weather.co2[left].min():.2f}, "
        f"tomorrow {weather.low_co2(day + 1):.2f}. Stored {energy:.0f} kWh, needed {weather.load[left].sum():.0f}, "
        f"tomorrow {weather.load[tomorrow].sum():.0f}. Action 0 to 3?"
    )


def _forecast(weather: Weather, hour: int, now: int) -> str:
    at = f"- {hour % 24:02d}:00"
    if hour < now:
        return f"{at} past"
    numbers = f"{at} load {weather.load[hour]:.1f} kW, CO2 {weather.co2[hour]:.3f} kg/kWh"
    return f"{numbers} <- now" if hour == now else numbers
