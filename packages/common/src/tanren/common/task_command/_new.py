"""Makes a task pack from the skeleton: a folder that is whole or not there."""

from __future__ import annotations

import keyword
import os
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tanren.common.errors import UserError
from tanren.common.run import folder_written_aside
from tanren.common.task_packs import known_packs
from tanren.common.workspace import workspace_root

MARK = "orders_skeleton"
"""The skeleton's own name, wherever it stands in it."""
REFERENCE = "folder_of_orders_skeleton"
"""How a recipe of the skeleton names the pack: by name in tasks/, else by its path."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Made:
    """A new pack: its folder, as it is named on a command line, and how a recipe names it."""

    folder: Path
    shown: str
    reference: str


def make_pack(name: str, parent: Path | None) -> Made:
    """Make the pack `name` in `parent` (None: the workspace's tasks/) and say where it is.

    Raises UserError for a name that cannot be one, for one that is taken, and for a folder that is there.
    """
    _check_name(name)
    root = workspace_root()
    if parent is None and root is None:
        raise UserError(
            f"the workspace with its tasks/ folder is not above {Path.cwd()}: start inside it, or name a --dir"
        )
    place = (root / "tasks" if root else Path()) if parent is None else parent.expanduser()
    if not place.is_dir():
        raise UserError(f"--dir {place}: no such folder; make it first")
    in_tasks = root is not None and place.resolve() == (root / "tasks").resolve()
    folder = place / name
    if folder.exists():
        raise UserError(f"{folder} is there already: nothing was changed; take another name, or remove it first")
    if in_tasks and name in known_packs():
        raise UserError(f"{name!r} is the name of a pack that is installed ({known_packs()[name]}); take another name")
    shown = Path(os.path.relpath(folder)) if folder.resolve().is_relative_to(Path.cwd()) else folder
    path = str(shown)
    reference = name if in_tasks else path if "/" in path else f"./{path}"
    with folder_written_aside(folder) as aside:
        for source, relative in _skeleton(files("tanren.common.task_command").joinpath("skeleton")):
            target = aside / relative.replace(MARK, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8").replace(REFERENCE, reference).replace(MARK, name)
            target.write_text(text, encoding="utf-8")
    return Made(folder, path, reference)


def next_steps(made: Made) -> str:
    """Return what to do with a new pack."""
    shown = made.shown
    return f"""{shown} is a pack that works: it asks for the order in a note (`12 x screws`). Make it yours, file by file:
  {shown}/task.toml      what it is: title, description, licence
  {shown}/generate.py    what the rows are about, and which are held out
  {shown}/prompts.py     how a row is asked for
  {shown}/judge.py       how an answer is read, and what it is worth
  {shown}/README.md      what a reader needs to know
Try it as it is, and after each change:
  ./pixiw run tanren rows {made.reference} --count 2
  ./pixiw run tanren task check {made.reference}
  ./pixiw run test {shown}
  ./pixiw run train-sft {shown}/recipes/quickstart.toml
"""


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) and not keyword.iskeyword(name):
        return
    proposed = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40].rstrip("_")
    if not _NAME.fullmatch(proposed) or keyword.iskeyword(proposed):
        proposed = f"task_{proposed}".rstrip("_")[:40]
    raise UserError(
        f"{name!r} cannot be a pack's name: its folder is a Python package; expected lower-case letters, digits and _, a letter "
        f"first, at most 40 characters, no word of Python's; write {proposed}"
    )


def _skeleton(folder: Traversable, above: str = "") -> list[tuple[Traversable, str]]:
    """Return the skeleton's files with their places below the pack's folder, in order."""
    found: list[tuple[Traversable, str]] = []
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                found += _skeleton(entry, f"{above}{entry.name}/")
        else:
            found.append((entry, above + entry.name))
    return found
