"""Tasks that a file lists: an outside benchmark's, as the pack reads them, or rows that an earlier evaluation has left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.common.workspace import sha256_of
from tanren.evaluate.predictions import read_tasks
from tanren.evaluate.submission import is_json_list, read_list

_LISTED = 5


@dataclass(frozen=True)
class TaskList:
    """The tasks of a file, in its order."""

    path: Path
    rows: list[Row]
    outside: bool
    """A benchmark's own form, a JSON list; else rows of the pack."""

    @property
    def items(self) -> str:
        """What the items are called."""
        return f"tasks of {self.path.name}"

    @property
    def compared(self) -> int:
        """Of how many the right content is known."""
        return sum(row.compared for row in self.rows)

    def record(self) -> dict[str, Any]:
        """Return what `summary.json` says of it."""
        return {"file": str(self.path), "sha256": sha256_of(self.path), "n": len(self.rows), "compared": self.compared}

    def told(self) -> str:
        """Say in a sentence what is known of the items, for the report."""
        rest = (
            ""
            if self.compared == len(self.rows)
            else f"Of {self.compared} of them the right content is known; the others are judged by their form alone."
        )
        return f"The items are the {len(self.rows)} tasks of {self.path.name}: what training data share with them is not known. {rest}".rstrip()


def read_task_list(pack: TaskPack, path: Path) -> TaskList:
    """Read the tasks of a file: a JSON list, where the pack reads such tasks, or a tasks.jsonl.

    Raises UserError for what is neither, for an empty file and for an id that is there twice.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"the tasks {path}: it {what}; name the file of the tasks with --tasks FILE")
    outside = is_json_list(path)
    if not outside:
        rows = read_tasks(path)
    else:
        reader = getattr(pack.module, "read_tasks", None)
        if reader is None:
            raise UserError(
                f"{path}: a JSON list, and the pack {pack.description.name} reads no outside tasks; name a tasks.jsonl"
            )
        rows = reader(read_list(path), str(path))
    if not rows:
        raise UserError(f"{path}: no task is in it")
    twice = [identity for identity, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        more = ", ..." if len(twice) > _LISTED else ""
        raise UserError(
            f"{path}: {len(twice)} ids are there twice ({', '.join(twice[:_LISTED])}{more}); ids must be unique"
        )
    return TaskList(path, rows, outside)
