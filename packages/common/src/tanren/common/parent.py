"""The adapter that training stands on: the run that `model.parent` names, found and checked before torch is imported."""

from __future__ import annotations

from typing import Any, TypeVar

from tanren.common.chain import LATEST, TrainedAdapter, find_parent, read_adapter
from tanren.common.config import ConfigModel, Loaded
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource
from tanren.common.run import open_run

Config = TypeVar("Config", bound=ConfigModel)


def settle_parent(
    loaded: Loaded[Config], source: ModelSource, resume: str | None
) -> tuple[Loaded[Config], TrainedAdapter | None]:
    """Return the parent that a recipe names, and the recipe with `latest:NAME` as the run directory that it means today.

    Of a run to resume (as --resume names it) it is the parent that the run has. Raises UserError where there is none, its files
    are others than recorded, or it was trained on another model.
    """
    config: Any = loaded.config
    if config.model.parent is None:
        return loaded, None
    named = config.model.parent
    if resume is not None and named.startswith(LATEST):  # the newest of today may be another
        recorded = open_run(resume, config.output.runs, config.name).read_config()["model"]
        named = recorded.get("parent", named)
    run = find_parent(named, config.output.runs)
    parent = read_adapter(run / "adapter")
    # a folder may be another's copy: its hash decides
    if parent.base["name"] != source.name and source.kind != "folder":
        raise UserError(
            f"model.parent {config.model.parent!r} was trained on {parent.base['name']}, and model.name is {source.name}; "
            "an adapter means nothing on other weights: write the same model"
        )
    if str(run) != config.model.parent:
        origin = f"{loaded.origins['model.parent']}: {config.model.parent}"
        loaded = loaded.with_values({"model.parent": str(run)}, origin)
    return loaded, parent


def check_parent_template(parent: TrainedAdapter | None, named: str | None, source: ModelSource, template: str) -> None:
    """Refuse a parent that learned with another chat template: its prompts were others."""
    if parent is not None and parent.template != template:
        raise UserError(
            f"model.parent {named!r} was trained with the chat template {parent.template}, {source.name} has {template}: "
            "give the model the template that it had then"
        )
