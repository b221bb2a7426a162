"""pixi.toml and pixi.lock keep what the profiles promise: machines, compilers, CUDA toolkit, GPUs, one runtime of each.

What is in a package is not looked at here, only that it is locked: conda-forge's `python` carries its headers
(include/python3.12/Python.h), `cuda-nvcc-tools` carries nvcc and ptxas.
"""

from __future__ import annotations

import re

import manifest
import pytest
from manifest_model import Manifest, Platform
from packaging.specifiers import SpecifierSet

from tanren.common.environments import Profile, read_architectures, read_profiles, version_key

from .conftest import ROOT
from .locked import LOCK

OURS: Manifest = manifest.read(ROOT / "pixi.toml")
PROFILES = read_profiles(ROOT)
GPU = [profile for profile in PROFILES if profile.cuda]
ARCHITECTURES = read_architectures(ROOT)
MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64", "osx-arm64": "arm64"}
EVERYWHERE = [(name, platform) for name in OURS.environments for platform in OURS.platforms_of(name)]
# conda-forge's name of a library -> the wheel's, in its CUDA 13 or CUDA 12 spelling
RUNTIME = {
    "cuda-cudart": r"nvidia-cuda-runtime(?:-cu12)?",
    "cuda-nvrtc": r"nvidia-cuda-nvrtc(?:-cu12)?",
}


def versions(environment: str, platform: Platform) -> dict[str, str]:
    """Package -> version, as locked."""
    files = LOCK["environments"][environment]["packages"][OURS.lock_names()[platform.name]]
    parts = (entry["conda"].rpartition("/")[2].rsplit("-", 2) for entry in files)
    return {name: version for name, version, _ in parts}


def each_gpu_environment() -> list[tuple[Profile, str, Platform]]:
    return [(p, name, platform) for p in GPU for name in p.environments for platform in OURS.platforms_of(name)]


def name_of(value: object) -> str:
    return value if isinstance(value, str) else str(getattr(value, "name", ""))


def test_every_environment_belongs_to_one_profile_and_every_profile_has_its_environments() -> None:
    named = [name for profile in PROFILES for name in profile.environments]
    assert sorted(named) == sorted(OURS.environments)


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_environments_that_share_a_python_lock_share_the_native_one(profile: Profile) -> None:
    first, *others = (LOCK["environments"][name] for name in profile.environments)
    assert all(other == first for other in others)


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_the_platforms_are_the_profiles_machines(profile: Profile) -> None:
    for name in profile.environments:
        platforms = OURS.platforms_of(name)
        assert sorted(MACHINES[platform.subdir] for platform in platforms) == sorted(profile.machines)
        glibc = {text for platform in platforms for text in platform.declared if text.startswith("__glibc=")}
        assert glibc == ({f"__glibc={profile.glibc}"} if profile.glibc else set())


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_the_platforms_cuda_is_that_of_the_profiles_least_driver(profile: Profile) -> None:
    declared = [text for name in profile.environments for p in OURS.platforms_of(name) for text in p.declared]
    toolkits = {text.removeprefix("__cuda=") for text in declared if text.startswith("__cuda=")}
    assert [ARCHITECTURES.least_driver[each] for each in toolkits] == ([profile.cuda.driver] if profile.cuda else [])


@pytest.mark.parametrize(("environment", "platform"), EVERYWHERE, ids=name_of)
def test_every_environment_has_python_with_headers_and_compilers_for_c_and_cxx(
    environment: str, platform: Platform
) -> None:
    locked = versions(environment, platform)
    profile = next(p for p in PROFILES if environment in p.environments)
    assert SpecifierSet(profile.python).contains(locked["python"])
    mac = platform.subdir.startswith("osx")
    compilers = (
        {f"clang_{platform.subdir}", f"clangxx_{platform.subdir}"}
        if mac
        else {f"{program}_impl_{platform.subdir}" for program in ("gcc", "gxx")}
    )
    assert compilers | {"c-compiler", "cxx-compiler"} <= set(locked)
    assert mac or f"sysroot_{platform.subdir}" in locked  # the C library's headers


@pytest.mark.parametrize(("profile", "environment", "platform"), each_gpu_environment(), ids=name_of)
def test_nvcc_and_ptxas_are_the_profiles_toolkit(profile: Profile, environment: str, platform: Platform) -> None:
    assert profile.cuda
    locked = versions(environment, platform)
    assert locked["cuda-version"] == profile.cuda.toolkit
    for package in ("cuda-nvcc", "cuda-nvcc-impl", "cuda-nvcc-tools", f"cuda-nvcc_{platform.subdir}", "cuda-nvvm-impl"):
        assert locked[package].startswith(profile.cuda.toolkit + "."), package
    assert ("cuda-compat" in locked) == profile.cuda.compat
    assert locked.get("cuda-compat", profile.cuda.toolkit).startswith(profile.cuda.toolkit)


@pytest.mark.parametrize("profile", GPU, ids=name_of)
def test_ptxas_knows_every_gpu_that_the_profile_promises(profile: Profile) -> None:
    assert profile.cuda
    assert profile.compute_capabilities
    least = {known.compute_capability: known.least_toolkit for known in ARCHITECTURES.known}
    toolkit = version_key(profile.cuda.toolkit)
    assert [each for each in profile.compute_capabilities if version_key(least[each]) > toolkit] == []
    assert profile.cuda.toolkit in ARCHITECTURES.least_driver


def test_the_environment_without_cuda_has_none_of_it() -> None:
    for profile in (profile for profile in PROFILES if not profile.cuda):
        for name in profile.environments:
            for platform in OURS.platforms_of(name):
                assert [package for package in versions(name, platform) if package.startswith("cuda")] == []


@pytest.mark.parametrize(("profile", "environment", "platform"), each_gpu_environment(), ids=name_of)
@pytest.mark.parametrize("library", RUNTIME)
def test_the_toolkits_runtime_libraries_are_the_wheels_version(
    profile: Profile, environment: str, platform: Platform, library: str
) -> None:
    path = profile.folder / "requirements.lock"
    wheels = re.findall(rf"^{RUNTIME[library]}==([0-9.]+)", path.read_text(), re.MULTILINE)
    assert wheels == [versions(environment, platform)[library]]
