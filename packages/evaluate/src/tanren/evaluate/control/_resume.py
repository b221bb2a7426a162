"""What `evaluate control --resume` goes on with: an unfinished run of the same weeks, the same settings and the same model."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tanren.common.config import dump_toml, flatten
from tanren.common.errors import UserError
from tanren.common.run import RunDirectory, find_open_run

from ._settings import ControlSettings

NAME = "control"
"""Run directories begin with it."""
IDENTITY = ("model", "adapter", "parents", "chat_template_hash")
"""What `environment.json` says of a model: where one of them is another, so is what it answers."""
_WEATHER = "weather_sha256"


def find_resumed(which: str, settings: ControlSettings, runs: Path, run_dir: Path | None) -> RunDirectory:
    """Find the run: `latest` (the newest that is not finished) or a path.

    Raises UserError if there is none, if it is finished or no controlled run, and if a weather file or a setting is another now.
    """
    run = find_open_run(which, runs, NAME)
    then = run.read_config()
    if not isinstance(then.get("control"), dict):
        raise UserError(f"--resume {which}: {run.path} is no run of evaluate control; name one that is, or 'latest'")
    if run_dir is not None and run_dir.expanduser().resolve() != run.path.resolve():
        raise UserError(f"--run-dir {run_dir} has no effect: --resume goes on in {run.path}; leave it out")
    now = tomllib.loads(dump_toml(settings.recorded, {}))
    where = f"--resume {run.path}"
    _refuse_other_weather(then["control"].pop(_WEATHER, {}), now["control"].pop(_WEATHER, {}), where)
    for values in (then, now):
        values["control"].pop("weather")  # the same files may lie elsewhere by now
    before, after = flatten(then), flatten(now)
    told = [
        f"{key}: then {_said(before, key)}, now {_said(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if told:
        raise UserError(
            f"{where}: the settings are not those of that run ({'; '.join(told)}); write the same command again, or let "
            f"'tanren resume {run.path}' write it"
        )
    return run


def refuse_other_model(run: RunDirectory, now: Mapping[str, Any]) -> None:
    """Raise UserError where the model that is loaded is not the one that made the run's decisions."""
    then = json.loads(run.environment.read_text(encoding="utf-8"))
    now = json.loads(json.dumps({key: now[key] for key in IDENTITY}, default=str))
    told = [f"{key}: then {then.get(key)!r}, now {now[key]!r}" for key in IDENTITY if then.get(key) != now[key]]
    if told:
        raise UserError(
            f"--resume {run.path}: the model is another one than in that run ({'; '.join(told)}); the decisions of two models make "
            "no week: start anew without --resume"
        )


def _refuse_other_weather(then: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    told = [f"{name} has another content now" for name in then if name in now and then[name] != now[name]]
    told += [f"{name} is not among the files now" for name in then if name not in now]
    told += [f"{name} was not among the files then" for name in now if name not in then]
    if told:
        raise UserError(
            f"{where}: the weather is not that of the run: {'; '.join(told)}; name the files that it began with"
        )


def _said(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not set"
