"""The candidates of an evaluation, found and checked before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tanren.common.chain import LATEST, PROVENANCE, SETTINGS, Link, TrainedAdapter, read_adapter
from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource, resolve_source
from tanren.evaluate.config import CandidateConfig, EvaluateConfig
from tanren.evaluate.named_model import find_named, template_of

BASE = "base"
FLAG = "--candidate"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Candidate:
    """One model that is evaluated."""

    name: str
    kind: Literal["base", "adapter", "model", "served"]
    source: ModelSource
    """Of the whole weights: an adapter's are those of the base model."""
    served: str
    """Its name at a server."""
    adapter: Path | None = None
    trained: TrainedAdapter | None = None
    """The adapter's record; None without one."""
    template: str | None = None
    """Hash of the chat template that it was trained with, where that is recorded."""

    @property
    def parents(self) -> Sequence[Link]:
        """What is merged into the base below the adapter."""
        return self.trained.parents if self.trained is not None else ()

    @property
    def merged(self) -> tuple[str, ...]:
        """The hashes of its parents: what tells the weights below two adapters apart."""
        return tuple(link.adapter_sha256 for link in self.parents)

    def line(self) -> str:
        """Say in a few words what it is."""
        if self.adapter is None:
            return f"{self.name}: {self.source.describe()}"
        below = "".join(f" + {link.line()}" for link in self.parents)
        return f"{self.name}: {self.source.name}{below} + {self.adapter}"

    def record(self) -> dict[str, Any]:
        """Return what `candidates.json` says of it."""
        record: dict[str, Any] = {"name": self.name, "kind": self.kind, "model": self.source.name}
        if self.adapter is not None:
            record["adapter"] = str(self.adapter)
        if self.trained is not None:
            record |= {"adapter_sha256": self.trained.itself.adapter_sha256, "run": self.trained.itself.run}
            record["parents"] = [link.record(number) for number, link in enumerate(self.parents, start=1)]
        return record


def add_named(loaded: Loaded[EvaluateConfig], named: Sequence[str]) -> Loaded[EvaluateConfig]:
    """Return the configuration with the candidates of `--candidate [NAME=]WHAT` behind the recipe's.

    Without a name it is that of the run that wrote it, else of its folder or model. Raises UserError for what is none.
    """
    if not named:
        return loaded
    tables = [one.model_dump(mode="json") for one in loaded.config.candidates]
    for text in named:
        name, equals, what = text.partition("=")
        found = find_named(what if equals else text, loaded.config.output.runs, FLAG)
        if not equals:
            name = _NOT_IN_A_NAME.sub("-", _own_name(found.run, found.adapter, found.model or "")).strip("-.")
        if loaded.config.generation.engine == "server" and found.model is not None and not Path(found.model).is_dir():
            tables.append({"name": name, "served": found.model})
            continue
        tables.append(
            {"name": name, "adapter": str(found.adapter)} if found.adapter else {"name": name, "model": found.model}
        )
    return loaded.with_values({"candidates": tables}, f"flag {FLAG}")


def settle_latest(loaded: Loaded[EvaluateConfig]) -> Loaded[EvaluateConfig]:
    """Return the configuration with each `latest:NAME` as the run directory that it means today, so that the run records that."""
    tables = [one.model_dump(mode="json") for one in loaded.config.candidates]
    for table in tables:
        named = table["adapter"]
        if named is not None and named.startswith(LATEST):
            table["adapter"] = str(find_named(named, loaded.config.output.runs, f"candidate {table['name']}:").run)
    if tables == [one.model_dump(mode="json") for one in loaded.config.candidates]:
        return loaded
    return loaded.with_values({"candidates": tables}, loaded.origins["candidates"])


def _own_name(run: Path | None, adapter: Path | None, model: str) -> str:
    if run is not None:
        return run.absolute().name
    return adapter.absolute().name if adapter is not None else Path(model).name.removeprefix("builtin:")


def settle_candidates(config: EvaluateConfig) -> list[Candidate]:
    """Return the candidates in the order of tables: the base first, then as they are listed.

    Raises UserError for two of one name, for a folder that holds no such thing, and for an adapter of another base model.
    """
    source = resolve_source(config.model.name, config.model.revision)
    found = []
    if config.base:
        found.append(Candidate(BASE, "base", source, config.requests.model or source.name))
    found += [_candidate(one, config, source) for one in config.candidates]
    if not found:
        raise UserError(
            "nothing to evaluate: base = false, and there is no candidate; add [[candidates]], or leave base"
        )
    names = [one.name for one in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(
            f"two candidates are named {', '.join(doubled)}; names must differ ({BASE} is the base model's, unless base = false): "
            f"in the recipe name = ..., on the command line {FLAG} NAME=WHAT"
        )
    return found


def _candidate(one: CandidateConfig, config: EvaluateConfig, base: ModelSource) -> Candidate:
    key = f"candidate {one.name}:"
    if one.model is not None:
        named = find_named(one.model, config.output.runs, key)
        if named.adapter is not None:
            raise UserError(f"{key} model = {one.model!r} is an adapter; write adapter = {one.model!r}")
        assert named.model is not None
        source = resolve_source(named.model, one.revision)
        return Candidate(one.name, "model", source, one.served or one.model, template=template_of(source))
    if one.adapter is None:
        assert one.served is not None
        return Candidate(one.name, "served", base, one.served)
    named = find_named(one.adapter, config.output.runs, key)
    if named.adapter is None or not (named.adapter / SETTINGS).is_file():
        raise UserError(
            f"{key} adapter {one.adapter!r}: no {SETTINGS} there; name the folder of a trained adapter or its run directory"
            + (f", or write model = {one.adapter!r}" if named.run is not None else "")
        )
    trained = read_adapter(named.adapter) if (named.adapter / PROVENANCE).is_file() else None
    # a folder may be another's copy: its hash decides, once the weights are there
    if (
        trained is not None
        and trained.base["name"] != base.name
        and "folder" not in (base.kind, trained.base.get("kind"))
    ):
        raise UserError(
            f"{key} adapter {named.adapter} was trained on {trained.base['name']}, and model.name is {base.name}; an adapter means "
            "nothing on other weights: set model.name (and model.revision) to the one it was trained on"
        )
    template = trained.template if trained is not None else None
    return Candidate(one.name, "adapter", base, one.served or one.name, named.adapter, trained, template)
