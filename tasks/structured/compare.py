"""When two values are the same, and where the first difference lies."""

from __future__ import annotations

import json

from .values import Value, number_in

_SHOWN = 40
"""Characters of a value that an error message shows."""


def difference(expected: Value, found: Value, *, as_text: bool) -> str | None:
    """Return the first difference as `path: found X, expected Y`, or None when the two are equal.

    The order of keys does not count, the order of a list does, strings are exact. Typed (`as_text` false):
    booleans are no numbers, and 5 equals 5.0. As text, for what was read from XML and CSV: a number equals a
    text that spells it as JSON would, a boolean equals `true` or `false`.
    """
    return _difference(expected, found, "", as_text)


def _difference(expected: Value, found: Value, path: str, as_text: bool) -> str | None:
    if isinstance(expected, dict):
        return _mapping_difference(expected, found, path, as_text)
    if isinstance(expected, list):
        if not isinstance(found, list):
            return _report(path, _show(found), "a list")
        if len(found) != len(expected):
            return _report(path, f"{len(found)} entries", str(len(expected)))
        for i, (want, have) in enumerate(zip(expected, found, strict=True)):
            if type(want) is str and want == have:  # most values are: no path is written for them
                continue
            step = _difference(want, have, f"{path}[{i}]", as_text)
            if step:
                return step
        return None
    same = _text_equal(expected, found) if as_text else _typed_equal(expected, found)
    return None if same else _report(path, _show(found), _show(expected))


def _mapping_difference(expected: dict[str, Value], found: Value, path: str, as_text: bool) -> str | None:
    if not isinstance(found, dict):
        return _report(path, _show(found), "a mapping")
    for key, want in expected.items():
        have = found.get(key)
        if type(want) is str and want == have:
            continue
        below = f"{path}.{key}" if path else key
        if key not in found:
            others = [other for other in found if other not in expected]
            return _report(below, f"no such key, but {_show(others[0])}" if others else "no such key", _show(want))
        step = _difference(want, have, below, as_text)
        if step:
            return step
    if len(found) == len(expected):
        return None
    extra = next(key for key in found if key not in expected)
    return _report(f"{path}.{extra[:_SHOWN]}" if path else extra[:_SHOWN], _show(found[extra]), "no such key")


def _typed_equal(expected: Value, found: Value) -> bool:
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int | float):
        return isinstance(found, int | float) and expected == found
    return type(expected) is type(found) and expected == found


def _text_equal(expected: Value, found: Value) -> bool:
    if not isinstance(found, str):
        return False
    if isinstance(expected, bool):
        return found == ("true" if expected else "false")
    if isinstance(expected, int | float):
        number = number_in(found.strip())
        return number is not None and number == expected
    return expected == found


def _show(value: Value) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")
    return json.dumps(value)[:_SHOWN]


def _report(path: str, found: str, expected: str) -> str:
    return f"{path or 'document'}: found {found}, expected {expected}"
