"""pixi.toml and pixi.lock: the environments, what they share, and that every task syncs first."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml

from .conftest import ROOT

MANIFEST: dict[str, Any] = tomllib.loads((ROOT / "pixi.toml").read_text())
ENVIRONMENTS = {"default", "train", "eval", "b300", "b300-cuda13", "gh200", "gh200-aarch64"}
NATIVE_PYTHON = {"python", "uv"}  # all of Python that pixi.lock may hold: the rest is the other lock's


def lock() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / "pixi.lock").read_text(), Loader=yaml.CSafeLoader)
    return loaded


def test_the_environments_of_the_design_are_there() -> None:
    assert set(MANIFEST["environments"]) == ENVIRONMENTS
    assert set(lock()["environments"]) == ENVIRONMENTS


@pytest.mark.parametrize(("alias", "name"), [("b300-cuda13", "b300"), ("gh200-aarch64", "gh200")])
def test_an_alias_is_the_same_environment(alias: str, name: str) -> None:
    environments = MANIFEST["environments"]
    assert environments[alias] == environments[name]
    assert environments[name]["solve-group"]
    locked = lock()["environments"]
    assert locked[alias]["packages"] == locked[name]["packages"]


def test_every_feature_exists_and_names_declared_platforms() -> None:
    platforms = {p if isinstance(p, str) else p["name"] for p in MANIFEST["workspace"]["platforms"]}
    for environment in MANIFEST["environments"].values():
        for name in environment["features"]:
            assert set(MANIFEST["feature"][name].get("platforms", platforms)) <= platforms


def test_the_least_pixi_is_the_one_that_the_wrapper_downloads() -> None:
    found = re.search(r"^version=([0-9.]+)", (ROOT / "pixiw").read_text(), re.MULTILINE)
    assert found
    assert MANIFEST["workspace"]["requires-pixi"] == f">={found[1].removesuffix('.0')}"


def test_every_task_syncs_first_and_is_described() -> None:
    tasks = MANIFEST["tasks"]

    def syncs(name: str) -> bool:
        return name in ("sync", "sync-for-lock") or any(syncs(before) for before in tasks[name].get("depends-on", []))

    assert [name for name in tasks if not syncs(name)] == []
    assert [name for name, task in tasks.items() if not task.get("description")] == []
    expected = "sync train-sft train-grpo evaluate tanren test lint format-check types check lock"
    assert set(expected.split()) <= set(tasks)


def test_every_console_script_has_a_task() -> None:
    scripts: set[str] = set()
    for path in ROOT.glob("packages/*/pyproject.toml"):
        scripts |= set(tomllib.loads(path.read_text())["project"]["scripts"])
    assert scripts <= set(MANIFEST["tasks"])


def test_the_native_lock_is_conda_forge_only_with_hashes_and_without_python_packages() -> None:
    content = lock()
    assert content["version"] == 7
    for package in content["packages"]:
        assert package["conda"].startswith("https://conda.anaconda.org/conda-forge/"), package
        assert re.fullmatch(r"[0-9a-f]{64}", package["sha256"]), package
        name = package["conda"].rpartition("/")[2].rsplit("-", 2)[0]
        needs_python = any(re.match(r"python( |$)", text) for text in package.get("depends", []))
        assert name in NATIVE_PYTHON or not needs_python, f"{name} belongs into the Python lock"


def test_the_python_of_every_environment_is_locked_where_its_platforms_are() -> None:
    for name, environment in lock()["environments"].items():
        for platform, packages in environment["packages"].items():
            names = {entry["conda"].rpartition("/")[2].rsplit("-", 2)[0] for entry in packages}
            assert {"python", "uv", "git"} <= names, (name, platform)
            assert ("cuda-nvcc" in names) == (name != "default"), (name, platform)
