"""Stages of one recipe: `[[stages]]` tables, each the recipe with some sections changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Unpack

from pydantic import BaseModel

from ._load import Loaded, Sources, flatten, read_toml, recorded_origins, resolve, validate

C = TypeVar("C", bound=BaseModel)
STAGES = "stages"


@dataclass(frozen=True)
class Stage(Generic[C]):
    """One stage: its name, and its configuration as of a recipe of its own."""

    name: str
    loaded: Loaded[C]
    changes: Mapping[str, Any]
    """What its table sets, as resolved (a flag outranks it): the table of a recipe that gives the same without flags."""


def load_stages(model: type[C], **sources: Unpack[Sources]) -> tuple[Stage[C], ...]:
    """Return the recipe's stages; none where it has none. Precedence: default < recipe < stage < environment variables < flags.

    A stage's table is laid over the recipe's: tables are merged key by key, everything else, lists too, is replaced.
    Raises UserError for what is wrong with the recipe, or in a stage (naming it).
    """
    recipe = sources["recipe"]
    base = {} if recipe is None else read_toml(recipe)
    tables = base.pop(STAGES, None)
    if STAGES not in model.model_fields or not _are_named(tables):
        return ()  # what is wrong with them `load_config` tells
    where = f"recipe {recipe}"
    validate(model, base, where)
    stages = []
    for table in tables:
        changes = {key: value for key, value in table.items() if key != "name"}
        here = f"{where}, stage {table['name']!r}"
        values = _laid_over(base, changes)
        validate(model, values, here)
        origins = recorded_origins(model, base, recipe) | dict.fromkeys(flatten(changes), here)
        loaded = resolve(model, values, origins, **sources)
        stages.append(Stage(table["name"], loaded, _picked(changes, loaded.values())))
    return tuple(stages)


def validate_recipe(model: type[BaseModel], values: Mapping[str, Any], source: str) -> None:
    """Check the values of a recipe with its stages. Raises UserError with every fault, each beginning with `source`."""
    base = {key: value for key, value in values.items() if key != STAGES}
    validate(model, base, source)
    for table in values.get(STAGES, ()):
        changes = {key: value for key, value in table.items() if key != "name"}
        validate(model, _laid_over(base, changes), f"{source}, stage {table['name']!r}")
    validate(model, values, source)


def _are_named(tables: Any) -> bool:
    return isinstance(tables, list) and all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in tables
    )


def _picked(keys: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return of nested `values` what has a key in `keys`."""
    return {
        key: _picked(below, values[key]) if isinstance(below, dict) and isinstance(values[key], dict) else values[key]
        for key, below in keys.items()
    }


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(dict(base))
    for key, value in changes.items():
        below = values.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            values[key] = _laid_over(below, value)
        else:
            values[key] = copy.deepcopy(value)
    return values
