"""What the commands that run a recipe have in common: `COMMAND [RECIPE.toml] [--flags]`, `--dry-run`, `schema`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from tanren.common.config import Loaded, Sources, Stage, dump_toml, load_config, load_stages
from tanren.common.errors import UserError
from tanren.common.workspace import workspace_root


@dataclass(frozen=True)
class RecipeCommand:
    """The fixed facts of a command."""

    prog: str
    model: type[BaseModel]
    prefix: str
    description: str
    default_recipe: str | None = None
    resumable: bool = False
    runs_stages: bool = False
    """Whether it goes through all stages of a recipe; another command looks at one of them, which --stage names."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables without the prefix, and the key that each sets."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    loaded: Loaded[Any]
    dry_run: bool
    as_json: bool
    resume: str | None
    stages: tuple[Stage[Any], ...] = ()
    """Of a command that runs them all: each with its own configuration; empty for a recipe without stages."""
    verify: bool = False
    """Prove that resuming is bit for bit instead of resuming."""

    def print_plan(self, facts: Mapping[str, Any], warnings: Sequence[str] = ()) -> None:
        """Print the resolved configuration with its origins, and what the run would do: as TOML, or as one JSON object."""
        print_plan(self.loaded, facts, warnings, as_json=self.as_json)


class Settled(Protocol):
    """Settings with their origins: a loaded recipe's, or those of a command without one."""

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each came from, by dotted names."""

    def values(self) -> Mapping[str, Any]:
        """Return them as nested JSON types."""


def print_plan(settled: Settled, facts: Mapping[str, Any], warnings: Sequence[str], *, as_json: bool) -> None:
    """Print settings with their origins, and what the run would do: as TOML, or as one JSON object."""
    if as_json:
        json.dump(plan_values(settled, facts, warnings), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(plan_text(settled, facts, warnings))


def plan_values(loaded: Settled, facts: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """Return the resolved configuration with its origins, and what the run would do, as JSON types."""
    return {
        "config": dict(loaded.values()),
        "origins": dict(loaded.origins),
        "plan": dict(facts),
        "warnings": list(warnings),
    }


def plan_text(loaded: Settled, facts: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Return the same as TOML with comments."""
    told = "".join(f"# warning: {warning}\n" for warning in warnings)
    plan = "".join(_fact(name, value) for name, value in facts.items())
    return f"{dump_toml(loaded.values(), loaded.origins)}{told}\n# The plan\n{plan}"


def _fact(name: str, value: Any) -> str:
    if isinstance(value, list):  # several lines
        return f"# {name}:\n" + "".join(f"#   {line}\n" for line in value)
    return f"# {name}: {value}\n"


def read_arguments(command: RecipeCommand, arguments: Sequence[str]) -> Request | None:
    """Read a command line; None if it was answered already (`schema`).

    `--help` and a flag that is wrong end the process, with the exit codes 0 and 2.
    """
    if list(arguments) == ["schema"]:
        json.dump(command.model.model_json_schema(), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return None
    rest = list(arguments)
    dry_run, as_json = take_switch(rest, "--dry-run"), take_switch(rest, "--json")
    resume = take_value(rest, "--resume", "latest|RUN_DIRECTORY") if command.resumable else None
    verify = take_switch(rest, "--verify") if command.resumable else False
    if verify and (resume is None or dry_run):
        raise UserError("--verify proves that a run can be resumed bit for bit: write --resume RUN_DIRECTORY --verify")
    if as_json and not dry_run:
        raise UserError("--json has no effect on a run; use it with --dry-run")
    help_only = "-h" in rest or "--help" in rest
    recipe = _take_recipe(rest)
    if recipe is None and not help_only:
        recipe = _default_recipe(command)
    wanted = None if command.runs_stages else take_value(rest, "--stage", "NAME")
    sources: Sources = {
        "recipe": None if help_only else recipe,
        "flags": rest,
        "environment": os.environ,
        "prefix": command.prefix,
        "prog": f"{command.prog} [RECIPE.toml]",
        "description": _description(command),
        "variables": command.variables,
    }
    stages = load_stages(command.model, **sources)
    loaded = load_config(command.model, **sources)
    if command.runs_stages:
        if verify and stages:
            raise UserError(
                f"--verify is for one run, and {loaded.recipe} has stages: name a stage's own run directory"
            )
        return Request(loaded, dry_run, as_json, resume, stages, verify)
    return Request(_the_stage(stages, wanted, loaded), dry_run, as_json, resume, verify=verify)


def _the_stage(stages: Sequence[Stage[Any]], wanted: str | None, loaded: Loaded[Any]) -> Loaded[Any]:
    """Return the configuration of the stage that is looked at, or the recipe's where it has no stages."""
    names = ", ".join(stage.name for stage in stages)
    if wanted is None:
        if stages:
            raise UserError(
                f"{loaded.recipe} has stages, and this looks at one of them: add --stage NAME, one of {names}"
            )
        return loaded
    for stage in stages:
        if stage.name == wanted:
            return stage.loaded
    raise UserError(f"--stage {wanted!r}: {loaded.recipe} has {f'the stages {names}' if stages else 'no stages'}")


def _description(command: RecipeCommand) -> str:
    lines = [command.description, ""]
    if command.default_recipe:
        lines.append(f"Without RECIPE.toml: {command.default_recipe}.")
    lines.append("--dry-run [--json] prints the resolved configuration and the plan, and does nothing.")
    if "stages" in command.model.model_fields:
        lines.append(
            "A recipe with [[stages]] runs them one after the other; flags hold for all of them."
            if command.runs_stages
            else "Of a recipe with [[stages]]: --stage NAME."
        )
    if command.resumable:
        lines.append("--resume latest|RUN_DIRECTORY continues an interrupted run from its newest checkpoint.")
        lines.append("--verify beside it does not: it proves on this machine that resuming that run is bit for bit.")
    lines.append(f"'{command.prog} schema' prints the JSON schema of a recipe.")
    lines.extend(f"The environment variable {name} sets {key}." for name, key in command.variables.items())
    lines.append(f"Precedence: flag, environment variable ({command.prefix}SECTION__KEY), recipe, default.")
    return "\n\n".join(lines[:1] + lines[2:])


def take_switch(arguments: list[str], flag: str) -> bool:
    """Take a switch out of the arguments; whether it was there."""
    found = flag in arguments
    while flag in arguments:
        arguments.remove(flag)
    return found


def take_value(arguments: list[str], flag: str, what: str) -> str | None:
    """Take a flag and its value out of the arguments; None if it is not there. Raises UserError where its value is missing."""
    for index, argument in enumerate(arguments):
        if argument == flag:
            if index + 1 == len(arguments) or arguments[index + 1].startswith("-"):
                raise UserError(f"{flag} has no value: write {flag} {what}")
            del arguments[index]
            return arguments.pop(index)
        if argument.startswith(f"{flag}="):
            return arguments.pop(index).partition("=")[2]
    return None


def _take_recipe(arguments: list[str]) -> Path | None:
    """Take the recipe's path: the first argument if it is no flag, or one that ends in .toml and is no flag's value."""
    for index, argument in enumerate(arguments):
        after_flag = index > 0 and arguments[index - 1].startswith("--") and "=" not in arguments[index - 1]
        if not argument.startswith("-") and (index == 0 or (argument.endswith(".toml") and not after_flag)):
            return Path(arguments.pop(index)).expanduser()
    return None


def _default_recipe(command: RecipeCommand) -> Path | None:
    if command.default_recipe is None:
        return None
    root = workspace_root()
    if root is None:
        raise UserError(
            f"no recipe was named, and the default one ({command.default_recipe}) needs the workspace: start inside it, or write {command.prog} RECIPE.toml"
        )
    path = root / command.default_recipe
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
