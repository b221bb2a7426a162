"""Checks a task pack against the contract (docs/tasks.md), with its default options; it never stops at the first fault."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

from tanren.common.errors import UserError
from tanren.common.task_command import _answers, _rows
from tanren.common.task_command._finding import Broken, Finding
from tanren.common.task_contract import Row, Split
from tanren.common.task_packs import TaskPack, load_command, load_control, load_pack

SPLITS: tuple[Split, ...] = ("train", "heldout")


def check_pack(name: str, most_rows: int = 200) -> list[Finding]:
    """Return what became of each check of the pack `name`; `most_rows` of each split are answered and judged.

    Raises UserError for a pack that is not there.
    """
    findings: list[Finding] = []

    def look(check: str, function: Callable[[], str]) -> bool:
        try:
            findings.append(Finding(check, True, function()))
        except (Broken, UserError) as error:
            findings.append(Finding(check, False, str(error)))
        except Exception as error:  # noqa: BLE001 - the pack's own code may raise anything; that is what is looked for
            findings.append(Finding(check, False, f"the pack's code raised {_raised(error)}"))
        return findings[-1].passed

    loaded: list[TaskPack] = []
    if not look("loads", lambda: _load(name, loaded)):
        return findings
    pack = loaded[0]
    look("task.toml", lambda: _check_named(pack))
    splits: dict[Split, list[Row]] = {}
    for split in SPLITS:
        look(f"rows of {split}", lambda split=split: _read(pack, split, splits))  # type: ignore[misc]
    if len(splits) < len(SPLITS):
        return findings
    look("splits apart", lambda: _rows.check_apart(splits))
    look("repeatable", lambda: _rows.check_repeatable(pack, splits))
    look("rows survive JSON", lambda: _rows.check_json(pack, _first(splits, most_rows)))
    rows = [row for some in _first(splits, most_rows).values() for row in some]
    look("gold answers", lambda: _answers.check_gold(pack, rows))
    look("wrong answers", lambda: _answers.check_wrong(pack, rows))
    look("reward", lambda: _answers.check_reward(pack, rows))
    look("hostile answers", lambda: _answers.check_hostile(pack, rows[0]))
    if hasattr(pack.module, "measures") or hasattr(pack.module, "mistakes"):
        look("metrics", lambda: _answers.check_metrics(pack, rows))
    look("prompts render", lambda: _rows.check_prompts(rows))
    return findings


def _load(name: str, loaded: list[TaskPack]) -> str:
    pack = load_pack(name)
    loaded.append(pack)
    return f"{pack.description.name}: {pack.description.title}"


def _check_named(pack: TaskPack) -> str:
    """Look for the recipes, commands and the plant that task.toml names."""
    folder, description = pack.folder, pack.description
    if description.name != folder.name:
        raise Broken(f"task.toml: name = {description.name!r} in the folder {folder.name}; expected the folder's name")
    for command, recipe in description.recipes.items():
        path = folder / recipe
        if not path.is_file():
            raise Broken(f"task.toml: recipes.{command}: no file {path}")
        try:
            named = tomllib.loads(path.read_text(encoding="utf-8")).get("task", {}).get("name")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Broken(f"{path} is not valid TOML: {error}") from None
        if named is None or str(named).rpartition("/")[2] != description.name:
            raise Broken(f"{path}: task.name is {named!r}, expected {description.name!r}")
    for command in description.commands:
        load_command(command, folder)
    if description.control:
        load_control(str(folder))
    return f"{len(description.recipes)} recipes, {len(description.commands)} commands"


def _read(pack: TaskPack, split: Split, splits: dict[Split, list[Row]]) -> str:
    rows = pack.rows(split)
    _rows.check_rows(rows, split)
    splits[split] = rows
    return f"{len(rows)} rows, ids unique, groups {', '.join(dict.fromkeys(row.group for row in rows))}"


def _first(splits: dict[Split, list[Row]], count: int) -> dict[Split, list[Row]]:
    return {split: rows[:count] for split, rows in splits.items()}


def _raised(error: Exception) -> str:
    """Return an exception with the place in the pack where it came from."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        where = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:200]}{where}"
