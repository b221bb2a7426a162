"""The values of variables, read strictly: a value that the old trainer would have replaced by its default is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from tanren.common.errors import UserError
from tanren.common.import_env._env_file import Variable

Read = Callable[[Variable], Any]
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def whole(least: int) -> Read:
    """Read an integer of at least that much."""

    def read(variable: Variable) -> int:
        if not re.fullmatch(r"[+-]?\d+", variable.text) or int(variable.text) < least:
            raise _wrong(variable, f"an integer of at least {least}")
        return int(variable.text)

    return read


def number(least: float, *, above: bool = False, below: float = math.inf) -> Read:
    """Read a number of at least that much, or above it; and below another one."""

    def read(variable: Variable) -> float:
        try:
            value = float(variable.text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least or (above and value == least) or value >= below:
            limit = f" and below {below:g}" if math.isfinite(below) else ""
            raise _wrong(variable, f"a number {'above' if above else 'of at least'} {least:g}{limit}")
        return value

    return read


def text(variable: Variable) -> str:
    """Read text, not empty."""
    if not variable.text.strip():
        raise _wrong(variable, "a text")
    return variable.text


def any_text(variable: Variable) -> str:
    """Read text, empty or not."""
    return variable.text


def names(variable: Variable) -> list[str]:
    """Read a list with commas between."""
    found = [name.strip() for name in variable.text.split(",")]
    if not all(found):
        raise _wrong(variable, "names with commas between, none empty")
    return found


def switch(variable: Variable) -> bool:
    """Read 1 or 0."""
    if variable.text.lower() not in SWITCH:
        raise _wrong(variable, "1 or 0")
    return SWITCH[variable.text.lower()]


def one_of(*known: str) -> Read:
    """Read one of these words."""

    def read(variable: Variable) -> str:
        if variable.text not in known:
            raise _wrong(variable, " or ".join(known))
        return variable.text

    return read


def mix(variable: Variable) -> list[dict[str, Any]]:
    """Read a JSON list of {"id", "weight", "split"}; empty text is an empty list."""
    found = _json(variable, [])
    if not isinstance(found, list):
        raise _wrong(variable, 'a JSON list of {"id": ..., "weight": ...}')
    for entry in found:
        good = isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
        if not good or not _is_number(entry.get("weight", 1.0)) or not isinstance(entry.get("split", "train"), str):
            raise _wrong(variable, f'entries like {{"id": "owner/name", "weight": 1.0}}, not {json.dumps(entry)}')
        unknown = sorted(entry.keys() - {"id", "weight", "split"})
        if unknown:
            raise UserError(
                f"{variable.where}: unknown key {unknown[0]!r} in {json.dumps(entry)}; known: id, weight, split"
            )
    return [
        {"id": one["id"], "weight": float(one.get("weight", 1.0)), "split": one.get("split", "train")} for one in found
    ]


def rules(variable: Variable) -> dict[str, float]:
    """Read a JSON object of rule: factor; empty text is an empty one."""
    found = _json(variable, {})
    if not isinstance(found, dict) or not all(_is_number(factor) and factor > 0 for factor in found.values()):
        raise _wrong(variable, 'a JSON object of rules and factors above 0, as {"toml": 2.0}')
    return {rule: float(factor) for rule, factor in found.items()}


def _json(variable: Variable, empty: Any) -> Any:
    if not variable.text.strip():
        return empty
    try:
        return json.loads(variable.text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise UserError(f"{variable.where}: found {variable.text!r}, which is no JSON: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(variable: Variable, expected: str) -> UserError:
    return UserError(f"{variable.where}: found {variable.text!r}, expected {expected}")
