"""Writes the reference pages in docs/reference from the configuration models: `./pixiw run docs [--check]`.

The models' docstrings are the help of the commands as well, so nothing is written twice. With `--check` nothing is
written; pages that are stale are named. Exit codes: 0, 1 stale pages, 2 the user's mistake.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from environments_page import environments_page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tanren.common.recipe_command import RecipeCommand
from tanren.common.task_packs import load_pack
from tanren.evaluate.cli import COMMAND as EVALUATE
from tanren.grpo.command import COMMAND as TRAIN_GRPO
from tanren.sft.command import COMMAND as TRAIN_SFT

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
MADE = "<!-- Made by `./pixiw run docs` from the configuration models and the profiles. Do not edit. -->"
TABLE_HEAD = ["| Key | Type | Default | What it does |", "|---|---|---|---|"]
PLAIN_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path", Any: "any"}
PLAIN_NAMES |= {dict: "table", Mapping: "table"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def pages() -> dict[Path, str]:
    """Return the text of every reference page by its path."""
    return {
        REFERENCE / "train-sft.md": command_page(TRAIN_SFT),
        REFERENCE / "train-grpo.md": command_page(TRAIN_GRPO),
        REFERENCE / "evaluate.md": command_page(EVALUATE),
        REFERENCE / "task-extraction.md": pack_page("extraction"),
        REFERENCE / "task-structured.md": pack_page("structured"),
        REFERENCE / "task-tes.md": pack_page("tes"),
        REFERENCE / "environments.md": environments_page(MADE),
    }


def command_page(command: RecipeCommand) -> str:
    """Return the page of a command that runs a recipe."""
    table, key = next(
        (table, next(iter(section.model_fields)))
        for table, field in command.model.model_fields.items()
        if (section := section_of(field)) is not None
    )
    flag = f"--{table}.{key}".replace("_", "-")
    lines = [
        f"# Reference: {command.prog}",
        "",
        MADE,
        "",
        command.description,
        "",
        f"A key is set in a recipe (`[{table}]`, `{key} = ...`), by an environment variable "
        f"(`{command.prefix}{table.upper()}__{key.upper()}`) or by a flag (`{flag}`; a `_` in a key is a `-` in a flag).",
        "Precedence: flag, environment variable, recipe, default.",
        *(["", f"Without a recipe: `{command.default_recipe}`."] if command.default_recipe else []),
        *model_lines(command.model, ()),
    ]
    return "\n".join(lines) + "\n"


def pack_page(name: str) -> str:
    """Return the page of a task pack's options."""
    pack = load_pack(str(ROOT / "tasks" / name))
    options = pack.module.Options
    lines = [
        f"# Reference: options of the task pack {name}",
        "",
        MADE,
        "",
        f"{pack.description.description} [The pack's conventions](../../tasks/{name}/README.md).",
        "",
        f"{doc(options)} In a recipe they stand in the table `[task.options]`; as flags they are `--task.options.NAME VALUE`.",
        "",
        *TABLE_HEAD,
        *(row(key, field) for key, field in options.model_fields.items()),
    ]
    return "\n".join(lines) + "\n"


def model_lines(model: type[BaseModel], path: Sequence[str]) -> Iterator[str]:
    """Yield the section of a model: its plain keys as a table, then its tables, each a section."""
    tables = {key: found for key, field in model.model_fields.items() if (found := section_of(field)) is not None}
    name = ".".join(path)
    yield from ("", f"## `[{name}]`" if name else "## Top level", "", doc(model), "", *TABLE_HEAD)
    for key, field in model.model_fields.items():
        if key not in tables:
            yield row(key, field)
    entries = {key: entry for key, field in model.model_fields.items() if (entry := entry_of(field.annotation))}
    for entry in dict.fromkeys(entries.values()):
        names = " and ".join(f"`[[{'.'.join((*path, key))}]]`" for key, one in entries.items() if one is entry)
        yield from ("", f"### {names}", "", doc(entry), "", *TABLE_HEAD)
        yield from (row(key, field) for key, field in entry.model_fields.items())
    for key, table in tables.items():
        yield from model_lines(table, (*path, key))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a table of its own."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def entry_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model of the tables in a list of tables."""
    inner = get_args(annotation)[0] if get_origin(annotation) is list else None
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def row(key: str, field: FieldInfo) -> str:
    """Return a field as a line of the table. Raises ValueError for a field without help."""
    if not field.description:
        raise ValueError(f"the field {key} has no docstring: write one under it")
    default = field.get_default(call_default_factory=True)
    shown = (
        "not set"
        if default is None
        else "must be given"
        if field.is_required()
        else f"`{json.dumps(default, default=str, ensure_ascii=False)}`"
    )
    kind = ", ".join([type_text(field.annotation), *bounds_of(field.metadata)])
    cells = [f"`{key}`", kind, shown, " ".join(field.description.split())]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def bounds_of(metadata: Sequence[Any]) -> list[str]:
    """Return the bounds among a field's constraints."""
    return [
        f"{sign} {value:g}"
        for part in metadata
        for name, sign in BOUNDS.items()
        if (value := getattr(part, name, None)) is not None
    ]


def type_text(annotation: Any) -> str:
    """Return a type as a person reads it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(type_text(part) for part in arguments if part is not NoneType)
    if origin is Annotated:
        return ", ".join([type_text(arguments[0]), *bounds_of(arguments[1].metadata)])
    if entry_of(annotation) is not None:
        return "list of tables"
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    return PLAIN_NAMES.get(origin or annotation, str(annotation))


def doc(model: type[BaseModel]) -> str:
    """Return a model's docstring on one line."""
    return " ".join((inspect.getdoc(model) or "").split())


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` name those that are stale."""
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write(f"docs: unknown arguments {list(arguments)}: only --check is known\n")
        return 2
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if arguments:
            sys.stderr.write(f"docs: {path.relative_to(ROOT)} is stale: run `./pixiw run docs`\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
            sys.stdout.write(f"docs: wrote {path.relative_to(ROOT)}\n")
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
