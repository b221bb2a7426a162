"""What the trainer and the process that runs rewards say to one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tanren.common.task_contract import Row

TAKEN = {"taken": True}
"""Said before a request is answered: from then on the user's code runs."""
PARSE = "parse completions"
"""The name of the call that parses; a reward's column cannot be taken for it: those are looked up apart."""


@dataclass(frozen=True)
class Setup:
    """What the child loads when it starts."""

    pack: tuple[str, dict[str, Any]] | None
    """Folder and options."""
    functions: dict[str, str]
    """A function's name by the reward's; the pack's own reward has an empty one."""


@dataclass(frozen=True)
class Request:
    """One call."""

    call: str
    kind: Literal["parse", "reward"]
    completions: list[str]
    rows: list[Row]
