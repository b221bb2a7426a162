"""The plant, the closed loop and the exact optimum: against hand-made hours, the old references, and a plain recursion."""

from __future__ import annotations

import csv
import dataclasses
from datetime import datetime
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.common.errors import UserError
from tasks.tes.generate import generated
from tasks.tes.optimum import Optimum
from tasks.tes.plant import advance, reward
from tasks.tes.simulation import Simulation, always, run
from tasks.tes.weather import CO2, HOURS, LOAD, TIME, Weather, read_weather

# net kg-CO2 of the actions 0 to 3 taken always, unserved kWh of 0 and 1, net kg-CO2 of the optimum: all from 150 kWh, as
# the system that this pack replaces computed them (its optimum by a grid).
OLD = {
    "0407": ((0, 54.053, 132.737, 211.420), (352.75, 0), 15.794),
    "0414": ((0, 63.068, 139.537, 218.245), (737.58, 0), 49.350),
    "0421": ((0, 68.243, 160.577, 252.910), (543.67, 0), 37.612),
    "0428": ((0, 57.915, 132.465, 207.015), (609.15, 0), 38.534),
    "0505": ((0, 72.900, 128.880, 201.780), (1058.39, 58.39), 60.873),
    "0519": ((0, 65.453, 138.637, 221.020), (805.62, 0), 49.703),
    "0602": ((0, 71.717, 148.163, 231.155), (810.19, 0), 55.483),
}


def old_weather(shared: Path, week: str) -> Weather:
    [path] = (shared / "tes-weather").glob(f"*_3day_{week}_to_*.csv")
    return read_weather(path)


def flat(load: float, co2: float) -> Weather:
    hours = np.arange(HOURS) % 24
    loads = np.where((hours >= 8) & (hours < 18), load, 0.0)
    return Weather("flat", datetime(2025, 5, 1), np.full(HOURS, co2), loads)


def best_by_recursion(weather: Weather, hour: int, energy: float) -> float:
    """Return the best value from here on, in kg: every reachable state is looked at, in plain Python."""
    low = sum(sorted(weather.co2[80:90].tolist())[:5]) / 5

    @cache
    def cost(hour: int, energy: float) -> float:
        if hour == 72:
            return 0.0
        actions = range(4) if 8 <= hour % 24 < 18 else range(1)
        return min(after(hour, energy, action) for action in actions)

    def after(hour: int, energy: float, action: int) -> float:
        left = energy + 100 * action / 3 - float(weather.load[hour])
        carbon = 25 * action / 3 * float(weather.co2[hour]) + 10 * max(0.0, -left)
        stored = min(max(left, 0.0), 300.0)
        saved = low * stored / 4 if hour == 65 else 0.0
        return carbon - saved + cost(hour + 1, round(stored, 7))

    return cost(hour, energy)


def test_an_hour_by_hand() -> None:
    full = advance(np.array([290.0]), np.array([3]), 40.0, 0.4)
    assert full.energy[0] == 300
    assert full.overflow[0] == pytest.approx(50)
    assert full.carbon[0] == pytest.approx(10)
    assert (full.served[0], full.unserved[0]) == (40, 0)
    short = advance(np.array([5.0]), np.array([1]), 50.0, 0.3)
    assert short.energy[0] == 0
    assert short.unserved[0] == pytest.approx(50 - 5 - 100 / 3)
    assert reward(short)[0] == pytest.approx(-(100 / 12 * 0.3 + 10 * (45 - 100 / 3)) / 6)


@given(st.floats(0, 300), st.integers(0, 3), st.floats(0, 120), st.floats(0, 1))
def test_no_energy_is_made_or_lost(energy: float, action: int, load: float, co2: float) -> None:
    step = advance(energy, action, load, co2)
    made = 100 * action / 3
    assert energy + made == pytest.approx(float(step.energy + step.served + step.overflow), abs=1e-9)
    assert float(step.served + step.unserved) == pytest.approx(load, abs=1e-9)
    assert 0 <= float(step.energy) <= 300


@pytest.mark.parametrize("week", OLD)
def test_old_references_come_out(shared: Path, week: str) -> None:
    weather = old_weather(shared, week)
    nets, unserved, optimal = OLD[week]
    for action in range(4):
        outcome = run(weather, always(action), 150.0)
        assert outcome.net[0] == pytest.approx(nets[action], abs=6e-4)
        assert outcome.unserved[0] == pytest.approx(unserved[action] if action < 2 else 0, abs=6e-3)
    best = run(weather, Optimum(weather).policy(), 150.0)
    assert best.net[0] == pytest.approx(optimal, abs=6e-4)
    assert best.unserved[0] == 0
    assert best.value[0] == pytest.approx(float(Optimum(weather).value(0, 150.0)), abs=1e-9)


@pytest.mark.parametrize("week", ["0414", "0505", "0519"])
def test_the_old_values_are_near_the_exact_ones(shared: Path, week: str) -> None:
    """The old ones were computed on a grid of the energy, and show the energy in whole kWh."""
    optimum = Optimum(old_weather(shared, week))
    [path] = (shared / "tes-q-dataset").glob(f"*_{week}_to_*_harmony.csv")
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    for row in rows:
        shown = float(row["prompt"].partition("TES energy [kWh]: ")[2].split()[0])
        old = np.array([float(row[f"q_action_{action}"]) for action in range(4)])
        # More energy is never worse, so the old values lie between those of the ends of what the rounded number may mean.
        low, high = (optimum.action_values(int(row["timestep"]), shown + part) for part in (-0.5, 0.5))
        assert (low - 0.02 <= old).all()
        assert (old <= high + 0.02).all()


def test_the_optimum_is_that_of_a_plain_recursion() -> None:
    for weather in islice(generated("train", 7), 2):
        optimum = Optimum(weather)
        for hour, energy in ((0, 150.0), (40, 299.0), (60, 0.0)):
            assert -6 * float(optimum.value(hour, energy)) == pytest.approx(
                best_by_recursion(weather, hour, energy), abs=1e-4
            )


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 300))
def test_action_values_are_what_following_them_yields(seed: int, initial: float) -> None:
    weather = next(generated("train", seed))
    optimum = Optimum(weather)
    values = optimum.action_values(8, initial)
    for action in range(4):
        simulation = Simulation(weather, initial)
        simulation.decide(np.array([action]))
        while not simulation.done:
            simulation.decide(optimum.policy()(simulation))
        assert simulation.outcome().value[0] == pytest.approx(values[action], abs=1e-7)


def test_no_policy_beats_the_optimum() -> None:
    weather = next(generated("heldout", 3))
    random = np.random.default_rng(0)
    outcome = run(weather, lambda one: random.integers(4, size=len(one.energy)), 150.0, runs=2000)
    assert outcome.value.max() <= float(Optimum(weather).value(0, 150.0)) + 1e-9
    assert outcome.actions.shape == (2000, 30)


def test_many_runs_at_once_are_the_same_as_one_after_the_other() -> None:
    weather = next(generated("train", 1))
    starts = np.array([0.0, 77.7, 300.0])
    optimum = Optimum(weather).policy()
    together = run(weather, optimum, starts)
    for index, start in enumerate(starts):
        alone = run(weather, optimum, float(start))
        assert alone.penalised[0] == pytest.approx(together.penalised[index], abs=1e-9)
        assert (alone.actions[0] == together.actions[index]).all()


def test_what_is_left_is_credited_once_at_the_last_closing_time() -> None:
    outcome = run(flat(0.0, 0.4), always(0), 120.0)
    assert (outcome.carbon[0], outcome.unserved[0]) == (0, 0)
    assert outcome.net[0] == pytest.approx(-0.4 * 120 / 4)


def test_an_off_plant_does_not_win() -> None:
    weather = flat(30.0, 0.4)
    off, low = run(weather, always(0), 150.0), run(weather, always(1), 150.0)
    assert off.net[0] == 0 < low.net[0]
    assert off.unserved[0] == pytest.approx(750)
    assert off.penalised[0] == pytest.approx(7500)
    assert off.penalised[0] > low.penalised[0]


def test_decisions_are_thirty_business_hours() -> None:
    weather = flat(30.0, 0.4)
    assert len(weather.decisions) == 30
    assert {hour % 24 for hour in weather.decisions} == set(range(8, 18))
    simulation = Simulation(weather, 150.0)
    assert (simulation.hour, simulation.energy[0]) == (8, 150)


@pytest.mark.parametrize("actions", [[4], [-1], [1.0], [0, 0], []])
def test_what_is_no_action_is_refused(actions: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 1 whole numbers from 0 to 3"):
        Simulation(flat(30.0, 0.4), 150.0).decide(np.array(actions))
    with pytest.raises(ValueError, match="expected 0 to 300"):
        Simulation(flat(30.0, 0.4), 301.0)


# --- weather -------------------------------------------------------------------------------------------------------------


def file_text(weather: Weather) -> str:
    lines = [f"{TIME},{CO2},{LOAD}"]
    lines += [f"{weather.time(hour)},{weather.co2[hour]},{weather.load[hour]}" for hour in range(HOURS)]
    return "\n".join(lines) + "\n"


def test_a_weather_file_is_read_as_it_is(tmp_path: Path) -> None:
    weather = next(generated("train", 0))
    path = tmp_path / "week.csv"
    path.write_text(file_text(weather), encoding="utf-8")
    read = read_weather(path)
    assert (read.name, read.begin) == ("week", weather.begin)
    assert (read.co2 == weather.co2).all()
    assert (read.load == weather.load).all()


@pytest.mark.parametrize(
    ("line", "replaced", "told"),
    [
        (0, "datetime,co2,load", "found the columns ['datetime', 'co2', 'load'], expected datetime, CO2排出係数"),
        (5, "2025-05-01 04:00:00,nan,0", "week.csv:6: column CO2排出係数[kg-CO2/kWh]: found 'nan'"),
        (5, "2025-05-01 04:00:00,400,0", "found '400', expected a number from 0 to 3 kg-CO2/kWh"),
        (5, "2025-05-01 04:00:00,0.4,-1", "column 冷房需要[kW]: found '-1'"),
        (
            5,
            "2025-05-01 05:00:00,0.4,0",
            "week.csv:6: column datetime: found 2025-05-01 05:00:00, expected 2025-05-01 04:00",
        ),
        (5, "yesterday,0.4,0", "column datetime: found 'yesterday'"),
        (5, "2025-05-01 04:00:00,0.4", "found 2 cells"),
        (96, "", "found 95 rows, expected 96"),
    ],
)
def test_a_fault_in_a_weather_file_is_told(tmp_path: Path, line: int, replaced: str, told: str) -> None:
    lines = file_text(flat(30.0, 0.4)).splitlines()
    lines[line] = replaced
    path = tmp_path / "week.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_weather(path)
    assert told in str(caught.value)


def test_made_weather_is_plausible_and_the_same_for_the_same_seed() -> None:
    made = list(islice(generated("train", 0), 60))
    again = list(islice(generated("train", 0), 60))
    assert all(
        (one.load == two.load).all() and (one.co2 == two.co2).all() for one, two in zip(made, again, strict=True)
    )
    assert not (next(generated("train", 1)).load == made[0].load).all()
    co2 = np.stack([one.co2 for one in made]).reshape(-1, 24)
    assert 0.4 < co2[:, :5].mean() < 0.6  # night
    assert 0.15 < co2[:, 12].mean() < 0.4 < co2[:, 20].mean()  # noon, evening
    office = np.stack([one.load for one in made]).reshape(-1, 24)[:, 8:18]
    assert office.min() > 0
    assert office.max() < 100
    summer = [one.load[8:18].mean() for one in made if one.begin.month in (7, 8)]
    autumn = [one.load[8:18].mean() for one in made if one.begin.month == 10]
    assert np.mean(summer) > 1.5 * np.mean(autumn)
    heldout = list(islice(generated("heldout", 0), 20))
    assert not {one.begin for one in heldout} & {one.begin for one in made}
    assert dataclasses.is_dataclass(made[0])
