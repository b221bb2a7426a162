"""Finds a reward function by its name. Runs in the child process: what it imports is the user's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class NotAFunctionError(Exception):
    """What the name stands for is no function; the message says what was found."""


def load_function(name: str) -> Callable[..., Any]:
    """Return the function `module:function` or `path/file.py:function`; a file may import those beside it.

    Raises NotAFunctionError, and whatever the user's code raises when it is imported.
    """
    place, _, function = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    found = getattr(module, function, None)
    if not callable(found):
        there = sorted(one for one, value in vars(module).items() if callable(value) and not one.startswith("_"))
        what = "is not there" if found is None else f"is a {type(found).__name__}"
        raise NotAFunctionError(f"{function} {what}; {place} has {', '.join(there) or 'no function'}")
    return found  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"tanren_reward_{path.stem}", path)
    assert spec is not None, "its name ends with .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module
