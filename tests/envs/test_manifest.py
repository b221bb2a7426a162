"""pixi.toml and pixi.lock: the environments, what they share, what the strict model refuses, and pixi's own schema."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import manifest
import pytest
import yaml
from manifest_model import DEFAULTS, Manifest, Platform, selects
from strict_table import ManifestError

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
        runs_it = tasks[name].get("cmd", "").startswith("python envs/sync.py")
        return runs_it or any(syncs(before) for before in tasks[name].get("depends-on", []))

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


# A small manifest with everything that the model knows. Each refusal below changes one place of it.
SMALL = """
[workspace]
name = "small"
version = "1"
description = "small"
license = "Apache-2.0"
channels = ["conda-forge"]
requires-pixi = ">=0.75"
platforms = ["linux-64", "osx-arm64", { name = "gpu-machine", platform = "linux-64", cuda = "12.8", glibc = "2.31" }]

[dependencies]
python = "3.12.*"
git = { version = ">=2.51", build = "h*" }

[target.osx-arm64.dependencies]
git = ">=2.50"

[activation.env]
PYTHONNOUSERSITE = "1"

[tasks]
sync = { cmd = "python envs/sync.py", description = "sync", cwd = "envs", env = { A = "1" } }
check = { depends-on = ["sync"] }

[feature.cpu]
platforms = ["linux-64", "osx-arm64"]

[feature.mac]
platforms = ["osx-arm64"]

[feature.gpu]
platforms = ["gpu-machine"]
[feature.gpu.activation]
scripts = ["envs/activate.sh"]
[feature.gpu.dependencies]
git = ">=2.52"
[feature.gpu.target."gpu-*".dependencies]
cuda-nvcc = "12.9.*"

[environments]
default = ["cpu"]
train = { features = ["gpu"], solve-group = "gpu" }
eval = { features = ["gpu"], solve-group = "gpu" }
bare = { features = ["gpu"], no-default-feature = true }
"""


def read(folder: Path, text: str) -> Manifest:
    path = folder / "pixi.toml"
    path.write_text(text)
    return manifest.read(path)


def test_the_manifest_is_one_that_the_model_takes() -> None:
    ours = manifest.read(ROOT / "pixi.toml")
    assert set(ours.environments) == ENVIRONMENTS
    assert {name: [p.name for p in ours.platforms_of(name)] for name in ours.environments} == {
        "default": ["linux-64", "linux-aarch64", "osx-arm64-macos14"],
        "train": ["linux-64-cuda12"],
        "eval": ["linux-64-cuda12"],
        "b300": ["linux-64-cuda13"],
        "b300-cuda13": ["linux-64-cuda13"],
        "gh200": ["linux-aarch64-cuda13"],
        "gh200-aarch64": ["linux-aarch64-cuda13"],
    }


def test_platforms_specs_groups_and_lock_names_follow_from_the_manifest(tmp_path: Path) -> None:
    small = read(tmp_path, SMALL)
    linux, mac, gpu = small.platforms
    assert small.platforms_of("default") == [linux, mac]  # not gpu-machine: its subdir is taken by an exact name
    assert small.platforms_of("train") == [gpu]
    assert small.specs("default", linux) == ["git >=2.51 h*", "python 3.12.*"]
    assert small.specs("default", mac) == ["git >=2.50", "python 3.12.*"]  # a target overrides in its feature
    assert small.specs("train", gpu) == ["cuda-nvcc 12.9.*", "git >=2.51 h*", "git >=2.52", "python 3.12.*"]
    assert small.specs("bare", gpu) == ["cuda-nvcc 12.9.*", "git >=2.52"]
    assert small.solve_groups() == [["default"], ["train", "eval"], ["bare"]]
    assert small.lock_names() == {"linux-64": "linux-64", "osx-arm64": "osx-arm64", "gpu-machine": "p1"}
    assert small.features["gpu"].scripts == ("envs/activate.sh",)
    assert small.features["default"].variables == {"PYTHONNOUSERSITE": "1"}


def test_a_platform_has_what_it_declares_and_pixis_defaults_for_the_rest() -> None:
    plain = Platform("linux-64", "linux-64")
    rich = Platform("gpu-machine", "linux-64", ("__cuda=12.8", "__glibc=2.31"))
    assert plain.virtual_packages == DEFAULTS["linux-64"]
    wanted = ("__cuda=12.8", "__glibc=2.31", "__unix=0=0", "__linux=4.18", "__archspec=0=x86_64")
    assert rich.virtual_packages == wanted
    assert plain.identity == ("linux-64",)
    assert rich.identity == ("linux-64", "__cuda=12.8", "__glibc=2.31")
    spelled_out = Platform("x", "linux-64", ("__glibc=2.28",))
    assert spelled_out.identity == plain.identity


@pytest.mark.parametrize(
    ("selector", "expected"),
    [("linux", True), ("unix", True), ("osx", False), ("linux-64", True), ("gpu-*", True), ("gpu", False)],
)
def test_a_target_selects_by_family_subdir_name_or_pattern(selector: str, expected: bool) -> None:
    assert selects(selector, Platform("gpu-machine", "linux-64", ("__cuda=12.8",))) is expected


def test_a_feature_without_platforms_is_for_all_and_a_subdir_stands_for_its_platforms(tmp_path: Path) -> None:
    everywhere = read(tmp_path, SMALL.replace('platforms = ["linux-64", "osx-arm64"]', ""))
    assert [p.name for p in everywhere.platforms_of("default")] == ["linux-64", "osx-arm64", "gpu-machine"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "small"', 'title = "small"', "[workspace]: the key 'name' is missing"),
        ('license = "Apache-2.0"', 'license = "x"\nchanels = []', "unknown key 'chanels': expected one of"),
        ("[feature.cpu]", "[feature.cpu]\ndependecies = {}", "did you mean 'dependencies'?"),
        ("default = [", '"B300_x" = [', "[environments.B300_x]: the name is 'B300_x': expected small letters"),
        ('default = ["cpu"]', 'default = ["cpus"]', "[environments.default]: feature 'cpus' is not defined"),
        ('["gpu-machine"]', '["gpu-machin"]', "[feature.gpu]: platform 'gpu-machin' is not declared: expected one of"),
        ('["gpu-machine"]', "[]", "[feature.gpu]: platforms is empty"),
        ('"osx-arm64", {', '"win-64", {', "[workspace.platforms 'win-64']: subdir 'win-64' is not known"),
        (
            'cuda = "12.8"',
            'cuda = "twelve"',
            "[workspace.platforms 'gpu-machine']: cuda is 'twelve': expected a version",
        ),
        ('cuda = "12.8"', "cuda = 12.8", "cuda is 12.8: expected a string"),
        ('cuda = "12.8"', 'kuda = "12.8"', "[workspace.platforms 'gpu-machine']: unknown key 'kuda'"),
        (', cuda = "12.8", glibc = "2.31"', "", "[workspace.platforms 'gpu-machine']: the same as 'linux-64'"),
        ('name = "gpu-machine"', 'name = "linux-64"', "[workspace.platforms 'linux-64']: the name is taken"),
        (
            "[tasks]",
            '[system-requirements]\ncuda = "12"\n[tasks]',
            "'system-requirements' is not used in this workspace",
        ),
        (
            "[tasks]",
            "[pypi-dependencies]\n[tasks]",
            "'pypi-dependencies' is not used in this workspace: Python packages",
        ),
        ("[feature.cpu]", "[feature.cpu]\npypi-dependencies = {}", "[feature.cpu]: 'pypi-dependencies' is not used"),
        ("[target.osx-arm64.", "[target.osx-64.", "[feature.default]: target 'osx-64' is no platform"),
        (
            '"3.12.*"',
            '"3.12.* *_cpython"',
            "[dependencies.python]: the version is '3.12.* *_cpython': expected one such as",
        ),
        ('"3.12.*"', '{ version = "*", channel = "x" }', "[dependencies.python]: unknown key 'channel'"),
        ("python = ", "Python = ", "[dependencies.Python]: the package is 'Python': expected a conda"),
        ('depends-on = ["sync"]', 'depends-on = ["sink"]', "[tasks.check]: depends on 'sink', which does not exist"),
        ('depends-on = ["sync"]', 'description = ""', "[tasks.check]: neither cmd nor depends-on"),
        ('depends-on = ["sync"]', "depends-on = [1]", "[tasks.check]: depends-on holds 1: expected strings only"),
        ('default = ["cpu"]', 'default = ["cpu", "cpu"]', "[environments.default]: features holds 'cpu' twice"),
        (
            'default = ["cpu"]',
            'default = ["mac", "gpu"]',
            "[environments.default]: its features have no platform in common",
        ),
        ("[feature.cpu]", "[feature.default]", "[feature.default]: the feature 'default' is the manifest's top level"),
        ("[tasks]", "[tasks", "not TOML"),
        ('default = ["cpu"]', 'default = "cpu"', "[environments.default] is 'cpu': expected a table"),
    ],
)
def test_what_the_model_does_not_know_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    with pytest.raises(ManifestError) as refused:
        read(tmp_path, SMALL.replace(old, new, 1))
    assert message in str(refused.value)
    assert "pixi.toml: " in str(refused.value)
    assert "\n" not in str(refused.value)


def places(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """The path of every table, list and value of the manifest."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, *path, key)


def test_an_unknown_key_in_any_table_and_a_number_in_any_place_are_refused() -> None:
    looked_at = 0
    for path in places(MANIFEST):
        changed: Any = copy.deepcopy(MANIFEST)
        *above, last = ("", *path)
        holder: Any = {"": changed}
        for key in above:
            holder = holder[key]
        if isinstance(holder[last], dict):
            holder[last]["unheard-of"] = 1  # where the keys are names, the number is what is refused
        else:
            holder[last] = 1
        with pytest.raises(ManifestError):
            manifest.parse(changed)
        looked_at += 1
    assert looked_at > 100


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"pixi\.toml cannot be read \(No such file"):
        manifest.read(tmp_path / "pixi.toml")


def test_the_manifest_fits_pixis_own_schema() -> None:
    named = os.environ.get("TANREN_PIXI_SCHEMA")
    place = Path(named) if named else ROOT.parent / "shared" / "tools" / "pixi" / "pixi-schema.json"
    if not (named or place.exists()):
        pytest.skip("pixi's manifest schema is not here: name it with TANREN_PIXI_SCHEMA (it is pixi's, not committed)")
    schema = json.loads(place.read_text())
    validator = importlib.import_module("jsonschema").validators.validator_for(schema)(schema)
    assert [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(MANIFEST)] == []
    broken = MANIFEST | {"environments": {"default": {"featurs": ["cpu"]}}}
    assert list(validator.iter_errors(broken)) != []  # the schema does look
