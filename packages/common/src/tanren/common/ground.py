"""A resumed run must stand on what it began with: the same settings, data and weights."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.common.config import dump_toml, flatten
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.run import RunDirectory


def check_same_config(values: Mapping[str, Any], run: RunDirectory, may_differ: re.Pattern[str]) -> None:
    """Refuse to resume with other settings: the result would be neither the old run nor a new one.

    `may_differ` matches the dotted names of settings that do not touch the numbers.
    """
    recorded, now = flatten(run.read_config()), flatten(tomllib.loads(dump_toml(values, {})))
    differing = [
        name
        for name in sorted(recorded.keys() | now.keys())
        if recorded.get(name) != now.get(name) and not may_differ.fullmatch(name)
    ]
    if differing:
        told = "\n".join(f"  {name}: the run has {recorded.get(name)!r}, now {now.get(name)!r}" for name in differing)
        raise UserError(
            f"{run.path} cannot be resumed with other settings:\n{told}\nresume with the same recipe and flags (its config.toml is a recipe)"
        )


def check_same_ground(run: RunDirectory, environment: Mapping[str, Any], console: Console, data: Sequence[str]) -> None:
    """Refuse to resume on other data or other weights; warn where only the numerics may part.

    `data` are the entries of `environment.json` that must be the same.
    """
    recorded = json.loads(run.environment.read_text(encoding="utf-8"))
    for name in data:
        if recorded.get(name) != environment[name]:
            raise UserError(
                f"{run.path} cannot be resumed: {name} was {recorded.get(name)!r}, now {environment[name]!r}; "
                "give it the data and the model that it began with, or start a new run"
            )
    for name in ("device", "attention", "packages", "cpu", "gpu"):
        if recorded.get(name) != environment.get(name):
            console.warn(
                f"resumed on other ground, so not bit for bit: {name} was {recorded.get(name)}, now {environment.get(name)}"
            )
