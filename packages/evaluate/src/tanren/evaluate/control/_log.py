"""The decision log: a line for each decision as soon as it acts, from which an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tanren.common.control_contract import Week
from tanren.common.errors import UserError
from tanren.common.jsonl import numbered_lines
from tanren.common.run import append_line, mend_last_line

FOLDER, LOG = "control", "decisions.jsonl"
"""In a run directory: the folder of a controlled run, and in it the decisions; the plots `<week>.svg` are beside them."""

Entry = Mapping[str, Any]


def read_log(path: Path) -> list[Entry]:
    """Return the decisions of a run. Raises UserError with file and line for what is none."""
    entries = []
    for number, line in numbered_lines(path.read_text(encoding="utf-8")):
        try:
            entry = json.loads(line)
            _ = entry["week"], entry["decision"], entry["action"]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}:{number}: not a decision; expected an object with week, decision and action"
            ) from None
        entries.append(entry)
    return entries


class DecisionLog:
    """The decisions of one run while they are made."""

    def __init__(self, path: Path) -> None:
        """Take up what an earlier start of this run has left; a torn last line goes."""
        path.parent.mkdir(exist_ok=True)
        mend_last_line(path)
        self.path = path
        self._made = {(one["week"], one["decision"]): one for one in read_log(path)} if path.is_file() else {}

    def __len__(self) -> int:
        """Return how many decisions are made."""
        return len(self._made)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(entry["action"] is None for entry in self._made.values())

    def made(self, week: Week, number: int) -> Entry | None:
        """Return a week's decision `number` (from 1), None where it is not made yet."""
        return self._made.get((week.name, number))

    def append(self, entries: Iterable[Entry]) -> None:
        """Write decisions down."""
        with self.path.open("ab") as file:
            for entry in entries:
                self._made[entry["week"], entry["decision"]] = entry
                append_line(file, entry)

    def check(self, now: Entry, prompt: Sequence[Mapping[str, Any]] | None) -> None:
        """Raise UserError where a decision that is there already would not come to what it came to then.

        `now` is its state and what it did, played again; `prompt` is what a model would be asked here, None where none was.
        """
        then = self._made[now["week"], now["decision"]]
        differing = [key for key, value in json.loads(json.dumps(now)).items() if then.get(key) != value]
        if then.get("prompt") != prompt:
            differing.append("prompt")
        if differing:
            key = differing[0]
            found = "" if key == "prompt" else f": then {then.get(key)!r}, now {now[key]!r}"
            raise UserError(
                f"{self.path}: decision {now['decision']} of {now['week']} does not come to the same again ({key}{found}): the task "
                "pack is another one since, or the log was changed; start anew without --resume"
            )
