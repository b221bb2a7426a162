"""The tables `[[rewards]]` of a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tanren.common.config import ConfigModel
from tanren.common.errors import UserError

Kind = Literal["task", "boltzmann", "advantage", "accuracy", "parse", "length", "function"]
VALUE_KINDS = ("boltzmann", "advantage", "accuracy")
CHILD_KINDS = ("task", "function")
"""Kinds whose code is the user's: it runs in the child process."""

_KEYS_OF = {
    "tau": ("boltzmann",),
    "file": VALUE_KINDS,
    "prefix": VALUE_KINDS,
    "function": ("function",),
    "free_tokens": ("length",),
    "limit_tokens": ("length",),
    "invalid_penalty": (*VALUE_KINDS, *CHILD_KINDS),
    "timeout_s": CHILD_KINDS,
    "on_error": CHILD_KINDS,
}
"""The keys that mean something to some kinds alone."""
_FUNCTION = re.compile(r"[^:]+\.py:[A-Za-z_]\w*|[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class RewardConfig(ConfigModel):
    """One reward of a completion. Several are added, each by its weight; each has its own column in the logs."""

    kind: Kind = "task"
    """task: the task pack's own. boltzmann, advantage, accuracy: by the values of a state's actions. parse: 1 if the completion
    parses, else 0. length: 0 up to free_tokens, falling to -1 at limit_tokens. function: a Python function of yours."""

    name: str | None = None
    """Its column in the logs; not set means its kind, or the function's name."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """What it is multiplied by before all are added. 0: only logged; it can exclude no completion then."""

    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """boltzmann: the temperature, in the unit of the values; the lower, the more only the best action counts."""

    file: Path | None = None
    """boltzmann, advantage, accuracy: a value file, joined to the rows by id. Not set: the values that the rows carry."""

    prefix: str = "q_action_"
    """Begins the name of a value column in the file."""

    function: str | None = None
    """`module:function`, or `path/file.py:function` in the workspace: takes the completions and their rows, returns one number
    for each, or None where it cannot say."""

    free_tokens: Annotated[int, Field(ge=0)] | None = None
    """length: up to so many tokens nothing is taken."""

    limit_tokens: Annotated[int, Field(ge=1)] | None = None
    """length: from so many tokens on it is -1 (arXiv:2503.14476, equation 13)."""

    invalid_penalty: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The reward of a completion that does not parse, in place of what it would be. Not set: the kind's own (none by value)."""

    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """task, function: seconds for all completions of a step together; the process that runs longer is ended."""

    on_error: Literal["stop", "exclude"] = "stop"
    """task, function: a reward that raises, runs too long, or returns no finite number ends the run, or excludes that completion."""

    @property
    def column(self) -> str:
        """Its name in logs and messages."""
        if self.name:
            return self.name
        return self.function.rpartition(":")[2] if self.function else self.kind

    @property
    def needs_parsing(self) -> bool:
        """Whether it asks if a completion parses."""
        return self.kind in (*VALUE_KINDS, "parse") or self.invalid_penalty is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, kinds in _KEYS_OF.items():
            if self.kind not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect on a reward of the kind {self.kind}, only on {', '.join(kinds)}")
        if self.file is None and self.prefix != type(self).model_fields["prefix"].default:
            raise ValueError("prefix has no effect without file: the rows carry values, not columns")
        if self.kind == "function" and not _FUNCTION.fullmatch(self.function or ""):
            raise ValueError(
                f"function: found {self.function!r}, expected module:function, or path/file.py:function in the workspace"
            )
        if self.kind == "length" and not (self.free_tokens or 0) < (self.limit_tokens or 0):
            raise ValueError(
                f"free_tokens = {self.free_tokens}, limit_tokens = {self.limit_tokens}: a length penalty needs both, and "
                "limit_tokens above free_tokens"
            )
        if self.kind == "length" and self.free_tokens is None:
            raise ValueError("free_tokens: a length penalty needs it; 0 takes from the first token on")
        return self


def check_rewards(settings: list[RewardConfig], *, has_pack: bool) -> None:
    """Refuse what cannot work, before any code of the user runs.

    Raises UserError for a column's name that is used twice, a list without weight, a file that is not there, and a reward
    that needs a task pack where there is none.
    """
    columns = [one.column for one in settings]
    for index, one in enumerate(settings):
        where = f"rewards.{index} ({one.column})"
        if columns.index(one.column) != index:
            raise UserError(f"{where}: another reward has this name; give one of them another `name`")
        if one.kind == "task" and not has_pack:
            raise UserError(
                f"{where}: there is no task pack, whose reward this is; use the kind function, or name a pack"
            )
        if one.file is not None and not one.file.is_file():
            raise UserError(f"{where}: no file {one.file}; paths are relative to {Path.cwd()}")
        script = (one.function or "").rpartition(":")[0]
        if script.endswith(".py") and not Path(script).is_file():
            raise UserError(f"{where}: no file {script}; paths are relative to {Path.cwd()}")
        values = any(other.kind in VALUE_KINDS for other in settings)
        if one.needs_parsing and not (has_pack or values):
            raise UserError(f"{where}: it asks whether a completion parses, and there is no task pack to say so")
    if not any(one.weight for one in settings):
        raise UserError("rewards: none has a weight other than 0, so there is nothing to learn from; give one a weight")
