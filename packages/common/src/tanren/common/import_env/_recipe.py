"""`tanren import-env`: the .env files of the old staged trainer as one recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tanren.common.config import dump_toml, validate_recipe
from tanren.common.errors import UserError
from tanren.common.import_env._old import OldStage, read_old_stage
from tanren.common.import_env._settings import Setting, settings_of
from tanren.common.plan import find_planner

COMMAND = "train-sft"
# What a run has once, whatever its stages: a chain has one base, and its results one place.
OF_THE_RUN = ("name", "model.", "tracking.", "output.")
CHAIN = (
    "Each stage starts from the base with the adapters of all stages before it merged, in 16 bits, and quantised after that. The old "
    "trainer merged only the last one, into the bare base: its third stage was trained on other weights than the second one's result."
)
QUANTISED = "The weights are quantised as before (nf4). Where there is no CUDA device, write model.quantisation = none."
SHELL = "Only the files count. The old trainer let variables of the shell outrank them, silently."


def import_env(files: Sequence[Path], rows: Mapping[str, int]) -> str:
    """Return a recipe of train-sft, as text, that does what the old trainer did with these files: with several, in stages.

    Raises UserError, with file and line, for whatever the old trainer would have replaced by a default or left out.
    """
    old = [read_old_stage(path) for path in files]
    _check_rows(old, rows)
    imported = [settings_of(one, rows) for one in old]
    first = imported[0][0]
    base = [setting for setting in first if all(_has(settings, setting) for settings, _ in imported)]
    notes = [SHELL, QUANTISED]
    changes: list[list[Setting]] = []
    if len(files) > 1:
        notes += [CHAIN, *_check_one_run(old, [settings for settings, _ in imported])]
        base = [setting for setting in first if setting.key.startswith(OF_THE_RUN) or setting in base]
        keys = {setting.key for setting in base}
        changes = [
            [one for one in settings if one.key not in keys and not one.key.startswith(OF_THE_RUN)]
            for settings, _ in imported
        ]
    notes += _merged([told for _, told in imported], files)
    values = _nested(base)
    names = _stage_names(files)
    stages = [{"name": name, **_nested(settings)} for name, settings in zip(names, changes, strict=False)]
    model = find_planner(COMMAND).command.model
    validate_recipe(model, values | ({"stages": stages} if stages else {}), "the imported recipe")
    head = [
        f"Imported from {', '.join(path.name for path in files)} by `tanren import-env`. What is another here than there:"
    ]
    head += [f"- {note}" for note in notes]
    text = "".join(f"# {_printable(line)}\n" for line in head) + "\n" + dump_toml(values, _origins(base, ""))
    for stage, settings in zip(stages, changes, strict=True):
        text += f"\n[[stages]]\n{dump_toml(stage, _origins(settings, 'stages.') | {'stages.name': 'its place in the chain'}, under='stages')}"
    return text


def _has(settings: Sequence[Setting], wanted: Setting) -> bool:
    return any(setting.key == wanted.key and setting.value == wanted.value for setting in settings)


def _check_rows(old: Sequence[OldStage], rows: Mapping[str, int]) -> None:
    known = sorted({entry["id"] for one in old for entry in one.values["SFT_DATASET_MIX"]})
    for name in rows:
        if name not in known:
            raise UserError(f"--rows {name}=...: no SFT_DATASET_MIX has it; {', '.join(known) or 'there is none'}")


def _check_one_run(old: Sequence[OldStage], imported: Sequence[Sequence[Setting]]) -> Iterator[str]:
    """Refuse stages of different base models; yield what else a run has once, and a stage would have had another way."""
    models = {one.values["SFT_BASE_MODEL"] for one in old}
    if len(models) > 1:
        told = "\n".join(f"  {one.origin('SFT_BASE_MODEL')}: {one.values['SFT_BASE_MODEL']}" for one in old)
        raise UserError(
            f"the stages of one chain have one base model, and these have several:\n{told}\nimport them one by one"
        )
    for key in ("name", "output.runs", "tracking.experiment"):
        values = [[setting.value for setting in settings if setting.key == key] for settings in imported]
        others = sorted({str(value) for found in values[1:] for value in found if found != values[0]})
        if others:
            yield f"{key} is one for the whole run: as the first file has it, not {', '.join(others)}."


def _stage_names(files: Sequence[Path]) -> list[str]:
    names = [re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-") or "stage" for path in files]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"two files would make a stage of the name {twice[0]!r}; name each file once, and rename one of them"
        )
    return names


def _nested(settings: Sequence[Setting]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        *tables, key = setting.key.split(".")
        below = values
        for table in tables:
            below = below.setdefault(table, {})
        below[key] = setting.value
    return values


def _origins(settings: Sequence[Setting], prefix: str) -> dict[str, str]:
    origins: dict[str, str] = {}
    for setting in settings:
        keys = [f"{setting.key}.{key}" for key in setting.value] if isinstance(setting.value, dict) else [setting.key]
        origins |= {f"{prefix}{key}": setting.origin for key in keys}
    return origins


def _merged(notes: Sequence[Sequence[str]], files: Sequence[Path]) -> list[str]:
    """Return each note once, with the files that it is about where it is not about all."""
    about: dict[str, list[str]] = {}
    for path, told in zip(files, notes, strict=True):
        for note in told:
            about.setdefault(note, []).append(path.name)
    return [note if len(names) == len(files) else f"{note} ({', '.join(names)})" for note, names in about.items()]


def _printable(text: str) -> str:
    """A comment ends with its line: a value of a file may hold another one."""
    return "".join(character if character.isprintable() else "?" for character in text)
