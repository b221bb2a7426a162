"""One way from recipe, environment variables and flags to a frozen configuration whose every value has an origin."""

from __future__ import annotations

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Generic, NotRequired, TypedDict, TypeVar, Unpack, get_args, get_origin

import tyro
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tanren.common.errors import UserError

from ._write import DEFAULT, origins_in

C = TypeVar("C", bound=BaseModel)
_OUTRANKED_THE_RECIPE = re.compile(r"(flag --|environment variable )[^\s,]+")


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """A configuration, where each of its values came from (dotted name -> origin), and the recipe's path."""

    config: C
    origins: Mapping[str, str]
    recipe: Path | None

    def values(self) -> dict[str, Any]:
        """Return the configuration as nested JSON types."""
        dumped: dict[str, Any] = self.config.model_dump(mode="json")
        return dumped

    def with_values(self, values: Mapping[str, Any], origin: str) -> Loaded[C]:
        """Return it with other values (dotted names), validated, each with that origin."""
        nested = self.values()
        for dotted, value in values.items():
            _set(nested, dotted, value, origin)
        config = validate(type(self.config), nested, origin)
        return Loaded(config, {**self.origins, **dict.fromkeys(values, origin)}, self.recipe)


class Sources(TypedDict):
    """Where a command's values come from."""

    recipe: Path | None
    flags: Sequence[str]
    environment: Mapping[str, str]
    prefix: str
    """Begins the names of this command's environment variables: `TANREN_SFT__OPTIM__LR` sets `optim.lr`."""
    prog: str
    description: str
    variables: NotRequired[Mapping[str, str]]
    """Other environment variables that set a key, by their whole names; they give way to those."""


def load_config(model: type[C], **sources: Unpack[Sources]) -> Loaded[C]:
    """Merge default < recipe < environment variables < flags, and validate.

    Raises UserError for an unknown key (with the nearest known one), a wrong type, an unreadable recipe.
    """
    recipe = sources["recipe"]
    values = {} if recipe is None else read_toml(recipe)
    if recipe is not None:
        validate(model, values, f"recipe {recipe}")
    origins = recorded_origins(model, values, recipe)
    return resolve(model, values, origins, **sources)


def recorded_origins(model: type[BaseModel], values: Mapping[str, Any], recipe: Path | None) -> dict[str, str]:
    """Return where each value that a recipe asks for came from, by dotted name.

    A run's own `config.toml` marks what nobody asked for, which is left out, and what a flag or a variable had set: that
    outranked the recipe of then, and still does, or the run would not be let through again as it was.
    """
    if recipe is None:
        return {}
    here = f"recipe {recipe}"
    standard = flatten(model().model_dump(mode="json"))
    marked = dict(origins_in(recipe.read_text(encoding="utf-8")))
    origins = {}
    for name, value in flatten(values).items():
        mark = marked.get(name, "")
        if mark == DEFAULT and value == standard.get(name):
            continue
        outranked = _OUTRANKED_THE_RECIPE.match(mark)
        origins[name] = f"{outranked[0]}, kept in {recipe}" if outranked else here
    return origins


def resolve(model: type[C], values: dict[str, Any], origins: dict[str, str], **sources: Unpack[Sources]) -> Loaded[C]:
    """Lay environment variables and flags over a recipe's values (both are changed in place), and validate: see `load_config`."""
    recipe, environment, prefix = sources["recipe"], sources["environment"], sources["prefix"]
    names = {name: dotted for name, dotted in sources.get("variables", {}).items() if environment.get(name)}
    own = sorted(name for name in environment if name.startswith(prefix))
    names |= {name: name.removeprefix(prefix).lower().replace("__", ".") for name in own}
    for variable, dotted in names.items():
        text = environment[variable]
        _set(values, dotted, text if _is_text(model, dotted) else _literal(text), f"environment variable {variable}")
        validate(model, values, f"environment variable {variable}")
        origins[dotted] = f"environment variable {variable}"
    flags, free = _take_free_flags(sources["flags"], model)
    for dotted, text in free.items():
        _set(values, dotted, _literal(text), f"flag --{dotted}")
        origins[dotted] = f"flag --{dotted}"
    base = validate(model, values, f"recipe {recipe}" if recipe else "the defaults")
    given = _given(flags)
    _check_flags(model, values, given)
    config = base
    if flags:
        prog, description = sources["prog"], sources["description"]
        config = tyro.cli(model, default=base, args=list(flags), prog=prog, description=description)
    for name in map(_positive, given):
        origins[name] = f"flag --{name}"
    return Loaded(config, origins, recipe)


def read_toml(path: Path) -> dict[str, Any]:
    """Return a recipe's tables. Raises UserError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        hint = f"; {path.parent / near[0]} is there" if near else "; check the path"
        raise UserError(f"the recipe cannot be read: no file {path}{hint}") from None
    except IsADirectoryError:
        raise UserError(f"the recipe cannot be read: {path} is a folder, expected a .toml file") from None
    except OSError as error:
        raise UserError(f"the recipe cannot be read: {path}: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe is not valid TOML: {path}: {error}; correct that place") from None


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested values by their dotted names: {"optim": {"lr": 1}} as {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def _set(values: dict[str, Any], dotted: str, value: Any, source: str) -> None:
    *tables, key = dotted.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise UserError(f"{source}: {table!r} is a value ({values!r}), not a section: nothing can be set below it")
    values[key] = value


def _literal(text: str) -> Any:
    """Read a flag's text as a TOML value (number, boolean, list), else take it as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _is_text(model: type[BaseModel], dotted: str) -> bool:
    """Whether the field takes text or a path, so that `TANREN_SFT__MODEL__NAME=1` stays the text 1."""
    field = _field(model, dotted)
    return field is not None and field.annotation in (str, str | None, Path, Path | None)


def _take_free_flags(flags: Sequence[str], model: type[BaseModel]) -> tuple[list[str], dict[str, str]]:
    """Split off flags below a free-form table (`--task.options.seed 3`), which the command line cannot know."""
    tables = tuple(f"--{name}." for name in _free_tables(model))
    kept: list[str] = []
    free: dict[str, str] = {}
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        if not tables or not flag.startswith(tables):
            kept.append(flag)
            continue
        name, equals, value = flag.partition("=")
        if not equals:
            if not rest:
                raise UserError(f"flag {flag} has no value: write {flag} VALUE")
            value = rest.pop(0)
        free[name.removeprefix("--").replace("-", "_")] = value
    return kept, free


def _given(flags: Sequence[str]) -> dict[str, list[str]]:
    """Return the values behind each flag, by its dotted name; none behind a switch."""
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for argument in flags:
        if argument.startswith("--"):
            flag, equals, text = argument.removeprefix("--").partition("=")
            values = given[flag.replace("-", "_")] = [text] if equals else []
        else:
            values.append(argument)
    return given


def _check_flags(model: type[BaseModel], values: dict[str, Any], given: Mapping[str, Sequence[str]]) -> None:
    """Validate each flag's value by its field, so that a wrong one is told in the same words as in a recipe.

    Unknown names and switches without a value are left to the command line's parser.
    """
    trial = copy.deepcopy(values)
    for name, texts in given.items():
        field = _field(model, name)
        if field is None or not texts:
            continue
        union = isinstance(field.annotation, UnionType)
        kinds = {get_origin(kind) or kind for kind in (get_args(field.annotation) if union else (field.annotation,))}
        single = texts[0] if _is_text(model, name) else None if texts[0] == "None" else _literal(texts[0])
        _set(trial, name, list(texts) if list in kinds else single, f"flag --{name}")
        validate(model, trial, f"flag --{name}")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field's annotation names, if the field is a section."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _section(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """Return the model of the section at `path` below `model`, if there is one; a number is a place in a list of tables."""
    annotation: Any = model
    for part in path:
        if part.isdecimal():
            annotation = get_args(annotation)[0] if get_origin(annotation) is list else None
            continue
        section = _section_of(annotation)
        field = section.model_fields.get(part) if section else None
        annotation = field.annotation if field else None
    return _section_of(annotation)


def _field(model: type[BaseModel], dotted: str) -> FieldInfo | None:
    """Return the field of a dotted name, if there is one."""
    *path, key = dotted.split(".")
    section = _section(model, path)
    return section.model_fields.get(key) if section else None


def _free_tables(model: type[BaseModel], path: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None:
            yield from _free_tables(section, f"{path}{name}.")
        elif get_origin(field.annotation) is dict:
            yield f"{path}{name}"


def _positive(name: str) -> str:
    """The field that a flag sets: `tracking.no_mlflow` sets `tracking.mlflow`."""
    head, dot, last = name.rpartition(".")
    return f"{head}{dot}{last.removeprefix('no_')}"


def validate(model: type[C], values: Mapping[str, Any], source: str) -> C:
    """Return the configuration of these values. Raises UserError with every fault, each beginning with `source`."""
    try:
        return model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(describe(detail, model, source) for detail in error.errors())) from None


def describe(detail: ErrorDetails, model: type[BaseModel], source: str) -> str:
    """Say one validation error in the house's form: where, found, expected, what to do."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        section = _section(model, path[:-1])
        known = list(section.model_fields) if section else []
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        do = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{source}: unknown key {key!r}: {do}"
    if detail["type"] == "value_error":  # a validator of ours: its message says what was found
        return ": ".join(filter(None, (source, key, str(detail["ctx"]["error"]))))
    return f"{source}: {key}: found {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
