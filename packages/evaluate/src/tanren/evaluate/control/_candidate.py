"""What `--policy MODEL` names: a model, an adapter, or a run, with what it was trained with. Decided without torch."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tanren.common.chain import LATEST, PROVENANCE, SETTINGS, TrainedAdapter, find_parent, read_adapter
from tanren.common.config import Loaded, ModelConfig, TaskConfig
from tanren.common.errors import UserError
from tanren.common.models.source import PREFIX, ModelSource, resolve_source
from tanren.evaluate.config import EvaluateConfig

from ._flags import ModelFlags

Prompt = Literal["full", "short"]


@dataclass(frozen=True)
class Candidate:
    """A model to decide, as it will be loaded."""

    loaded: Loaded[EvaluateConfig]
    source: ModelSource
    adapter: Path | None
    trained: TrainedAdapter | None
    """The adapter's record; None without one."""
    template: str | None
    """Hash of the chat template that a whole model was trained with, where that is recorded."""
    prompt: Prompt
    notes: tuple[str, ...] = ()


def find_candidate(named: str, flags: ModelFlags, task: str, policies: Sequence[str], runs: Path) -> Candidate:
    """Find the model that `--policy` names. Raises UserError for what is neither a policy nor a model.

    A run's own configuration says which base, chat template and form of the prompt it was trained with; flags say otherwise.
    """
    adapter, model, run = _find(named, policies, runs)
    recorded = _recorded(run, task)
    trained = read_adapter(adapter) if adapter is not None and (adapter / PROVENANCE).is_file() else None
    settings = dict(recorded.get("model", {}))
    if adapter is not None:
        settings = (dict(trained.base) if trained is not None else {}) | settings
        if flags.base is not None:
            settings |= {"name": flags.base, "revision": None}
        if "name" not in settings:
            raise UserError(
                f"--policy {named}: the adapter does not say on which base it was trained; name it with --base MODEL"
            )
    else:
        if flags.base is not None:
            raise UserError(f"--base has no effect: {named} is a whole model; leave it out")
        settings |= {"name": model, "revision": None}
    known = {key: settings[key] for key in ("name", "revision", "chat_template") if settings.get(key) is not None}
    origins = dict.fromkeys((f"model.{key}" for key in known), f"run {run}" if run else "flag --policy")
    if flags.base is not None:
        origins["model.name"] = "flag --base"
    for key in ("chat_template", "quantisation", "device"):
        value = getattr(flags, key)
        if value is not None:
            known[key] = value
            origins[f"model.{key}"] = f"flag --{key.replace('_', '-')}"
    for key in ("max_new_tokens", "batch_size"):
        if getattr(flags, key) is not None:
            origins[f"generation.{key}"] = f"flag --{key.replace('_', '-')}"
    config = EvaluateConfig(
        name="control",
        adapter=adapter,
        allow_other_template=flags.allow_other_template,
        model=ModelConfig.model_validate(known),
        task=TaskConfig(name=task),
        generation=flags.generation(),
    )
    source = resolve_source(config.model.name, config.model.revision)
    prompt, notes = _prompt(recorded, flags)
    return Candidate(Loaded(config, origins, None), source, adapter, trained, _template_of(source), prompt, notes)


def _find(named: str, policies: Sequence[str], runs: Path) -> tuple[Path | None, str, Path | None]:
    """Return adapter, model and run that are meant, each where there is one."""
    folder = Path(named).expanduser()
    if not named.startswith(LATEST):
        if not folder.is_dir():
            _refuse_unknown(named, policies)
            return None, named, None
        if (folder / SETTINGS).is_file():
            return folder, "", _run_of(folder)
        if (folder / "config.json").is_file():
            return None, named, _run_of(folder)
        if not (folder / "config.toml").is_file():
            raise UserError(
                f"--policy {named}: no model in that folder; expected a saved model (config.json), an adapter ({SETTINGS}), or a run "
                "directory (config.toml)"
            )
        if (folder / "model" / "config.json").is_file() and not (folder / "adapter").is_dir():
            return None, str(folder / "model"), folder
    run = find_parent(named, runs, "--policy")
    return run / "adapter", "", run


def _refuse_unknown(named: str, policies: Sequence[str]) -> None:
    """Refuse a word that is neither a policy nor can be a model."""
    if named.startswith(PREFIX) or "/" in named:
        return
    near = difflib.get_close_matches(named, policies, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"--policy {named!r}: no such policy, and no folder of that name; {hint}known policies: {', '.join(policies)}; a model is "
        f"named by folder, run directory, hub id (owner/model) or {PREFIX}NAME"
    )


def _run_of(folder: Path) -> Path | None:
    """Return the run directory that a folder was written by, if it lies in one still."""
    above = folder.absolute().parent
    return above if folder.absolute().name in ("adapter", "model") and (above / "config.toml").is_file() else None


def _recorded(run: Path | None, task: str) -> Mapping[str, Any]:
    """Return the configuration of the run; without options if it was of another task."""
    if run is None:
        return {}
    path = run / "config.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; name the adapter's folder elsewhere, with --base MODEL"
        ) from None
    return found if found.get("task", {}).get("name") == task else {"model": found.get("model", {})}


def _prompt(recorded: Mapping[str, Any], flags: ModelFlags) -> tuple[Prompt, tuple[str, ...]]:
    """Return the form of the prompt, and what is to be said of it."""
    options = recorded.get("task", {}).get("options", {})
    if "task" not in recorded:
        asked: Prompt = flags.prompt or "full"
        return asked, ()
    trained: Prompt = options.get("prompt", "full")
    if flags.prompt not in (None, trained):
        asked = flags.prompt
        return asked, (f"warning: it was trained with prompt = {trained}; it is asked with {asked}, as --prompt says",)
    return trained, (f"prompt = {trained}, as it was trained",)


def _template_of(source: ModelSource) -> str | None:
    """Return the recorded hash of the chat template of a whole model that a run or a merge wrote."""
    if source.kind != "folder":
        return None
    try:
        record = json.loads((Path(source.location) / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = record.get("chat_template_hash") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None
