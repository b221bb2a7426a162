"""The command that this pack adds to `tanren data`."""

from __future__ import annotations

import csv
import io
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tanren.common.errors import ExitCode, UserError
from tanren.common.run import write_atomically
from tanren.common.values import PREFIX


def tes_q(
    weather: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="WEATHER.csv ...")] = (),
    *,
    out: Path,
    generate: int = 0,
    initial_kwh: float = 150.0,
    episodes: int = 1,
    seed: int = 0,
    prompt: Literal["full", "short"] = "full",
) -> int:
    """Write a value file for the control of a thermal energy storage: states, prompts, and the exact value of each action.

    Values are undiscounted, of the reward -(kg of CO2 + 10 kg for each kWh of demand unserved) / 6, with the best decisions
    behind the action.

    Args:
        weather: Files of 96 hours with the columns `datetime`, `CO2排出係数[kg-CO2/kWh]` and `冷房需要[kW]`.
        out: The file to write; must not exist.
        generate: Make so many weathers from the seed, in place of files.
        initial_kwh: Energy in the storage when the first episode begins, 0 to 300.
        episodes: Of each weather, 30 states each. The first follows the optimum, the others begin anywhere and go astray.
        seed: Of the weathers that are made, and of the episodes that go astray.
        prompt: The forecast hour by hour (full), or the state in five lines (short).
    """
    from .generate import generated
    from .plant import STORAGE_KWH
    from .states import visited
    from .weather import read_weather

    if bool(weather) == bool(generate) or generate < 0:
        raise UserError("name weather files, or how many weathers to make with --generate N: one of the two")
    if not 0 <= initial_kwh <= STORAGE_KWH:
        raise UserError(f"--initial-kwh {initial_kwh:g}: expected 0 to {STORAGE_KWH:g}, what the storage holds")
    if episodes < 1:
        raise UserError(f"--episodes {episodes}: expected at least 1")
    if out.exists():
        raise UserError(f"--out {out}: the file is there already; remove it, or name another")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    weathers = [read_weather(path) for path in weather] or list(islice(generated("train", seed), generate))
    twice = {one.name for one in weathers if [other.name for other in weathers].count(one.name) > 1}
    if twice:
        raise UserError(f"{min(twice)}: named twice; the ids of its states would not be unique")
    states = [state for one in weathers for state in visited(one, initial_kwh, episodes, seed, prompt)]
    text = io.StringIO(newline="")
    file = csv.writer(text, lineterminator="\n")
    values = [f"{PREFIX}{action}" for action in range(len(states[0].values))]
    head = ["id", "dataset", "timestep", "tes_energy", "tes_energy_normalized", "is_business_hour", "timestamp"]
    file.writerow([*head, "prompt", "optimal_action", *values])
    for state in states:
        turns = "\n".join(f"{turn.role}: {turn.content}" for turn in state.prompt)
        at = [state.id, state.weather.name, state.hour, state.energy, state.energy / STORAGE_KWH, 1]
        file.writerow([*at, state.weather.time(state.hour).isoformat(), turns, state.best, *state.values])
    write_atomically(out, text.getvalue())
    counts = ", ".join(f"{one}: {sum(state.best == one for state in states)}" for one in range(len(values)))
    sys.stdout.write(f"{out}: {len(states)} states of {len(weathers)} weathers; best action {counts}\n")
    return ExitCode.DONE
