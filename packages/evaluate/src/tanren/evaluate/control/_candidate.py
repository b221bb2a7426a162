"""What `--policy MODEL` names: a model, an adapter, or a run, with what it was trained with. Decided without torch."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tanren.common.chain import LATEST, PROVENANCE, TrainedAdapter, read_adapter
from tanren.common.config import Loaded, ModelConfig, TaskConfig
from tanren.common.errors import UserError
from tanren.common.models.source import PREFIX, ModelSource, resolve_source
from tanren.evaluate.config import EvaluateConfig, EvaluationGenerationConfig
from tanren.evaluate.named_model import find_named, template_of

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
    if not named.startswith(LATEST) and not Path(named).expanduser().is_dir():
        _refuse_unknown(named, policies)
    found = find_named(named, runs, "--policy")
    adapter, run = found.adapter, found.run
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
        settings |= {"name": found.model, "revision": None}
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
        allow_other_template=flags.allow_other_template,
        model=ModelConfig.model_validate(known),
        task=TaskConfig(name=task),
        generation=EvaluationGenerationConfig.model_validate(flags.generation()),
    )
    source = resolve_source(config.model.name, config.model.revision)
    prompt, notes = _prompt(recorded, flags)
    return Candidate(Loaded(config, origins, None), source, adapter, trained, template_of(source), prompt, notes)


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
