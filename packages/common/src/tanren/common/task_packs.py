"""Finds and loads task packs: folders under tasks/, any folder by path, or packs that a distribution installed."""

from __future__ import annotations

import difflib
import hashlib
import importlib.machinery
import importlib.util
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from tanren.common.config._load import describe
from tanren.common.control_contract import ControlTask
from tanren.common.errors import UserError
from tanren.common.task_contract import Parsed, Row, Split, TaskModule, TaskOptions
from tanren.common.workspace import workspace_root


class PackDescription(BaseModel):
    """What `task.toml` says about a pack."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    description: str
    licence: str
    group: str
    """What `Row.group` stands for, as the heading of the table's first column ("format")."""
    heldout: str = ""
    """One sentence for the report: what held-out rows share with training rows, and what not."""
    recipes: Mapping[str, str] = {}
    """Recipe files of this pack by command, relative to the pack's folder."""
    commands: Mapping[str, str] = {}
    """What the pack adds to `tanren data`: a command's name, and `module:function` in the pack's folder; its docstring is its help."""
    control: str = ""
    """What `evaluate control` runs in closed loop: `module:function` in the pack's folder (tanren.common.control_contract)."""


@dataclass(frozen=True)
class TaskPack:
    """A loaded pack with its options settled."""

    description: PackDescription
    folder: Path
    module: TaskModule
    options: TaskOptions

    def rows(self, split: Split) -> list[Row]:
        """Return the rows of a split; an id that occurs twice is an error in the pack."""
        rows = self.module.rows(split, self.options)
        seen: set[str] = set()
        for row in rows:
            if row.id in seen:
                raise UserError(
                    f"task pack {self.description.name}: the row id {row.id!r} occurs twice; ids must be unique"
                )
            seen.add(row.id)
        return rows

    def parse(self, completion: str, row: Row) -> Parsed:
        """Judge one completion."""
        return self.module.parse(completion, row)


def load_pack(name: str, options: Mapping[str, Any] | None = None) -> TaskPack:
    """Load the pack `name` and check `options` against its own model.

    Raises UserError for an unknown pack (with the nearest known one) and for options that the pack does not know.
    """
    folder = find_pack(name)
    description = _describe(folder)
    module = cast(TaskModule, _import(folder))
    for needed in ("Options", "rows", "parse", "reward"):
        if not hasattr(module, needed):
            raise UserError(f"task pack {folder}: task.py has no {needed!r}; docs/tasks.md lists what a pack provides")
    try:
        settled = module.Options.model_validate(dict(options or {}))
    except ValidationError as error:
        source = f"options of the task pack {description.name}"
        raise UserError("\n".join(describe(detail, module.Options, source) for detail in error.errors())) from None
    return TaskPack(description, folder, module, settled)


def known_packs() -> dict[str, Path]:
    """Return the packs that can be named: those of the workspace and those of installed distributions."""
    packs = {
        point.name: Path(cast(Sequence[str], point.load().__path__)[0]) for point in entry_points(group="tanren.tasks")
    }
    root = workspace_root()
    if root is not None:
        packs |= {path.parent.name: path.parent for path in sorted((root / "tasks").glob("*/task.toml"))}
    return packs


def find_pack(name: str) -> Path:
    """Return the folder of a pack, without running any of its code; UserError for one that is not there."""
    folder = Path(name).expanduser()
    if "/" in name or name in (".", ".."):
        if not (folder / "task.toml").is_file():
            raise UserError(f"no task pack at {folder}: expected a folder with task.toml and task.py")
        return folder.resolve()
    packs = known_packs()
    if name not in packs:
        near = difflib.get_close_matches(name, packs, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known packs: {', '.join(packs) or 'none'}"
        if workspace_root() is None:
            hint += f"; the workspace with its tasks/ folder is not above {Path.cwd()}: start inside it"
        raise UserError(f"unknown task pack {name!r}: {hint} (a folder elsewhere is named by its path, with a /)")
    return packs[name]


def pack_commands() -> dict[str, Path]:
    """Return the commands that the known packs add to `tanren data`, each with its pack's folder, without running their code.

    Raises UserError for one that two packs have.
    """
    found: dict[str, Path] = {}
    for folder in known_packs().values():
        for command in _describe(folder).commands:
            if command in found:
                raise UserError(f"tanren data {command}: both {found[command]} and {folder} add it; rename one of them")
            found[command] = folder
    return found


def load_command(name: str, folder: Path) -> Callable[..., int]:
    """Return the function of a command that a pack adds. Raises UserError where the pack has none."""
    return cast("Callable[..., int]", _function(folder, f"commands.{name}", _describe(folder).commands[name]))


def load_control(name: str) -> ControlTask:
    """Return what `evaluate control` runs of the pack `name`. Raises UserError for a pack that controls nothing."""
    folder = find_pack(name)
    named = _describe(folder).control
    if not named:
        raise UserError(f"task pack {name}: it controls nothing: {folder / 'task.toml'} has no key `control`")
    return cast("ControlTask", _function(folder, "control", named))


def _function(folder: Path, key: str, named: str) -> Callable[..., Any]:
    module, _, function = named.partition(":")
    package = _package(folder)
    found = None
    if (folder / f"{module}.py").is_file():
        found = getattr(importlib.import_module(f"{package}.{module}"), function, None)
    if not callable(found):
        raise UserError(f"{folder / 'task.toml'}: {key}: there is no function {function!r} in {folder / module}.py")
    return cast("Callable[..., Any]", found)


def _describe(folder: Path) -> PackDescription:
    path = folder / "task.toml"
    try:
        return PackDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise UserError("\n".join(describe(detail, PackDescription, str(path)) for detail in error.errors())) from None


def _import(folder: Path) -> ModuleType:
    """Import task.py."""
    package = _package(folder)
    if not (folder / "task.py").is_file():
        raise UserError(f"task pack {folder}: no task.py; docs/tasks.md says what it holds")
    return importlib.import_module(f"{package}.task")


def _package(folder: Path) -> str:
    """Make the pack's folder a package of its own, so that its modules import one another relatively; return its name."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    package = f"tanren_task_{folder.name.replace('-', '_')}_{digest}"
    if package not in sys.modules:
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return package
