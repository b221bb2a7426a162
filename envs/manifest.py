"""Reads pixi.toml, strictly. Standard library only.

pixi itself takes more keys than these and passes over some mistakes until it solves. Here a key that the model does
not know is refused: what nobody checks cannot come in unseen.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifest_model import DECLARABLE, DEFAULTS, FAMILIES, Environment, Feature, Manifest, Part, Platform, Task, selects
from strict_table import ManifestError, Table

CHANNELS = "https://conda.anaconda.org/"

ENVIRONMENT = re.compile(r"[a-z0-9-]+")
PLATFORM = re.compile(r"[a-zA-Z]([a-zA-Z0-9-]*[a-zA-Z0-9])?")
PACKAGE = re.compile(r"[a-z0-9_][a-z0-9._-]*")
VERSIONS = re.compile(r"[0-9A-Za-z.*+!_<>=~,|-]+")  # without spaces: after one, conda reads a build
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)*")
ELSEWHERE = {
    "pypi-dependencies": "Python packages belong into envs/<name>/requirements.in",
    "system-requirements": "declare cuda and glibc on the entry of [workspace] platforms",
}


def read(path: Path) -> Manifest:
    """Read pixi.toml; ManifestError says what is refused, and where."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ManifestError(f"{path} cannot be read ({fault.strerror}): expected the workspace's manifest") from fault
    except tomllib.TOMLDecodeError as fault:
        raise ManifestError(f"{path}: not TOML: {fault}") from fault
    try:
        return parse(raw)
    except ManifestError as fault:
        raise ManifestError(f"{path.name}: {fault}") from fault


def parse(raw: dict[str, Any]) -> Manifest:
    """The model of the file's tables; ManifestError says what is refused, and in which table."""
    top = Table(raw)
    workspace = top.table("workspace")
    for key in ("name", "version", "description", "license"):
        workspace.take(key, str)
    channels = tuple(_address(name) for name in workspace.texts("channels"))
    requires_pixi = workspace.take("requires-pixi", str)
    platforms = _platforms(workspace)
    workspace.end(ELSEWHERE)
    features = {"default": _feature(top)}
    for name, value, place in top.entries("feature"):
        if name == "default":
            raise ManifestError(f"[{place}]: the feature 'default' is the manifest's top level: write it there")
        table = Table(value, place)
        platforms_of_feature = table.texts("platforms", [])
        if "platforms" in table.raw and not platforms_of_feature:
            raise ManifestError(f"{table.at}platforms is empty: expected at least one, or no such key for all")
        features[name] = dataclasses.replace(_feature(table), platforms=platforms_of_feature)
        table.end(ELSEWHERE)
    environments = {"default": Environment(("default",), "")}
    for name, value, place in top.entries("environments"):
        environments[name] = _environment(name, value, place)
    top.end(ELSEWHERE)
    manifest = Manifest(channels, requires_pixi, platforms, features, environments)
    _check(manifest)
    return manifest


def _address(channel: str) -> str:
    return (channel if "://" in channel else CHANNELS + channel).rstrip("/") + "/"


def _platforms(workspace: Table) -> tuple[Platform, ...]:
    found: list[Platform] = []
    for entry in workspace.take("platforms", list):
        table = Table({"name": entry, "platform": entry} if isinstance(entry, str) else entry, "workspace.platforms")
        name, subdir = table.take("name", str), table.take("platform", str)
        table.place += f" '{name}'"
        declared = []
        for key, package in DECLARABLE.items():
            if version := table.take(key, str, ""):
                _must(NUMBER, version, f"{table.at}{key}", "a version: 12.8")
                declared.append(f"{package}={version}")
        table.end({})
        if subdir not in DEFAULTS:
            raise ManifestError(f"{table.at}subdir '{subdir}' is not known: expected one of {', '.join(DEFAULTS)}")
        _must(PLATFORM, name, table.at + "name", "letters, digits and dashes")
        reserved = name in {*DEFAULTS, *FAMILIES} and (declared or name != subdir)
        if reserved or name in {p.name for p in found}:
            raise ManifestError(f"{table.at}the name is taken: expected one of its own, such as '{subdir}-cuda12'")
        found.append(Platform(name, subdir, tuple(declared)))
        if twin := next((p for p in found[:-1] if p.identity == found[-1].identity), None):
            raise ManifestError(f"{table.at}the same as '{twin.name}': expected another cuda or glibc")
    return tuple(found)


def _feature(table: Table) -> Feature:
    """What a feature and the top level share; the caller reads the table's other keys, and ends it."""
    part = _part(table)
    targets = {}
    for selector, value, place in table.entries("target"):
        inner = Table(value, place)
        targets[selector] = _part(inner)
        inner.end(ELSEWHERE)
    return Feature(**vars(part), targets=targets)


def _part(table: Table) -> Part:
    dependencies = {name: _spec(name, value, place) for name, value, place in table.entries("dependencies")}
    tasks = {name: _task(Table(value, place)) for name, value, place in table.entries("tasks")}
    activation = table.table("activation")
    variables = activation.table("env")
    part = Part(
        dependencies, tasks, {key: variables.take(key, str) for key in variables.raw}, activation.texts("scripts", [])
    )
    activation.end({})
    return part


def _spec(name: str, value: object, place: str) -> str:
    _must(PACKAGE, name, f"[{place}]: the package", "a conda package's name")
    table = Table({"version": value} if isinstance(value, str) else value, place)
    version, build = table.take("version", str), table.take("build", str, "")
    table.end({})
    _must(VERSIONS, version, f"{table.at}the version", "one such as '>=1.2,<2' or '3.12.*', without spaces")
    return f"{version} {build}".strip()


def _task(table: Table) -> Task:
    command = table.take("cmd", str, "")
    task = Task(command, table.texts("depends-on", []), table.take("description", str, ""))
    table.take("cwd", str, "")
    for name in (variables := table.table("env")).raw:
        variables.take(name, str)
    table.end({})
    if not (task.command or task.depends_on):
        raise ManifestError(f"{table.at}neither cmd nor depends-on: expected one of them")
    return task


def _environment(name: str, value: object, place: str) -> Environment:
    _must(ENVIRONMENT, name, f"[{place}]: the name", "small letters, digits and dashes")
    table = Table({"features": value} if isinstance(value, list) else value, place)
    features, group = table.texts("features"), table.take("solve-group", str, "")
    alone = table.take("no-default-feature", bool, default=False)
    table.end({"dependencies": "put it into a feature"})
    return Environment(features if alone else (*features, "default"), group)


def _check(manifest: Manifest) -> None:
    """What one part says of another: features, platforms, selectors and tasks that must exist."""
    known = {p.name for p in manifest.platforms}
    for name, feature in manifest.features.items():
        for platform in feature.platforms or ():
            if platform not in known:
                raise ManifestError(
                    f"[feature.{name}]: platform '{platform}' is not declared: expected one of {_list(known)}"
                )
        for selector in feature.targets:
            if not any(selects(selector, platform) for platform in manifest.platforms):
                raise ManifestError(
                    f"[feature.{name}]: target '{selector}' is no platform: expected one of {_list({*known, *FAMILIES})}"
                )
    for name, environment in manifest.environments.items():
        for wanted in environment.features:
            if wanted not in manifest.features:
                raise ManifestError(
                    f"[environments.{name}]: feature '{wanted}' is not defined: expected one of {_list(manifest.features)}"
                )
        if not manifest.platforms_of(name):
            raise ManifestError(
                f"[environments.{name}]: its features have no platform in common: expected at least one"
            )
    parts = [part for feature in manifest.features.values() for part in (feature, *feature.targets.values())]
    tasks = {name for part in parts for name in part.tasks}
    for name, task in (entry for part in parts for entry in part.tasks.items()):
        for wanted in task.depends_on:
            if wanted not in tasks:
                raise ManifestError(
                    f"[tasks.{name}]: depends on '{wanted}', which does not exist: expected one of {_list(tasks)}"
                )


def _must(pattern: re.Pattern[str], value: str, what: str, expected: str) -> None:
    if not pattern.fullmatch(value):
        raise ManifestError(f"{what} is '{value}': expected {expected}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
