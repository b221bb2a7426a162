"""What a word on the command line or in a recipe names: an adapter, or a whole model. Decided without torch."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from tanren.common.chain import LATEST, PROVENANCE, SETTINGS, find_parent
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource

_LISTED = 5


@dataclass(frozen=True)
class NamedModel:
    """An adapter's folder or a model's name (one of the two), and the run that wrote it, where it still lies in one."""

    adapter: Path | None
    model: str | None
    run: Path | None


def find_named(named: str, runs: Path, key: str) -> NamedModel:
    """Find what is named: an adapter's or a model's folder, a finished run directory, `latest:NAME`, else a model's name.

    Raises UserError, saying that `key` names it, for a folder that holds none of them.
    """
    folder = Path(named).expanduser()
    if not named.startswith(LATEST):
        if not folder.is_dir():
            _refuse_lost_run(folder, runs, f"{key} {named}")
            return NamedModel(None, named, None)
        if (folder / SETTINGS).is_file():
            return NamedModel(folder, None, _run_of(folder))
        if (folder / "config.json").is_file():
            return NamedModel(None, named, _run_of(folder))
        if not (folder / "config.toml").is_file():
            raise UserError(
                f"{key} {named}: no model in that folder; expected a saved model (config.json), an adapter ({SETTINGS}), or a run "
                "directory (config.toml)"
            )
        if (folder / "model" / "config.json").is_file() and not (folder / "adapter").is_dir():
            return NamedModel(None, str(folder / "model"), folder)
    run = find_parent(named, runs, key)
    return NamedModel(run / "adapter", None, run)


def template_of(source: ModelSource) -> str | None:
    """Return the recorded hash of the chat template of a whole model that a run or a merge wrote; None where there is none."""
    if source.kind != "folder":
        return None
    try:
        record = json.loads((Path(source.location) / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = record.get("chat_template_hash") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None


def _refuse_lost_run(folder: Path, runs: Path, where: str) -> None:
    """Refuse what would be a run of the folder of runs, and is none: taken for a hub id it would be looked for in the network."""
    if not runs.expanduser().is_dir() or folder.parent.resolve() != runs.expanduser().resolve():
        return
    names = [path.name for path in runs.expanduser().iterdir() if path.is_dir()]
    near = difflib.get_close_matches(folder.name, names, n=1)
    there = ", ".join(sorted(names)[-_LISTED:]) or "none"
    hint = f"did you mean {near[0]}?" if near else f"the newest there: {there}"
    raise UserError(f"{where}: no such run in {runs}; {hint}")


def _run_of(folder: Path) -> Path | None:
    """Return the run directory that a folder was written by, if it lies in one still."""
    above = folder.absolute().parent
    return above if folder.absolute().name in ("adapter", "model") and (above / "config.toml").is_file() else None
