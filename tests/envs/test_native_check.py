"""pixi.lock fits pixi.toml, and whatever would not is found and named: one change each, against the committed files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import native_lock
import pytest

from .conftest import ROOT
from .locked import FORGE, LockedWorkspace


@pytest.fixture
def ours(tmp_path: Path) -> LockedWorkspace:
    return LockedWorkspace(tmp_path)


def test_the_committed_lock_has_no_problems() -> None:
    assert native_lock.problems(ROOT) == []


def another_python(ours: LockedWorkspace) -> None:
    old = ours.package("osx-arm64/python-3")["conda"]
    ours.rename(old, old.replace("3.12.13", "3.11.9"))


def missing(ours: LockedWorkspace) -> None:
    ours.files("train", "p1").remove({"conda": ours.package("linux-64/libexpat-")["conda"]})


def superfluous(ours: LockedWorkspace) -> None:
    ours.files("default", "linux-64").append({"conda": ours.package("linux-64/ninja-")["conda"]})


def unused(ours: LockedWorkspace) -> None:
    ours.lock["packages"].append({**ours.package("linux-64/ninja-"), "conda": f"{FORGE}linux-64/ninja-9.0-h0.conda"})


def other_channel(ours: LockedWorkspace) -> None:
    ours.lock["environments"]["eval"]["channels"] = [{"url": "https://conda.anaconda.org/bioconda/"}]


def other_source(ours: LockedWorkspace) -> None:
    old = ours.package("linux-aarch64/git-")["conda"]
    ours.rename(old, old.replace("conda-forge", "bioconda"))


def no_hash(ours: LockedWorkspace) -> None:
    del ours.package("osx-arm64/git-")["sha256"]


def drift(ours: LockedWorkspace) -> None:
    old = ours.package("noarch/tzdata-")
    new = {**old, "conda": f"{FORGE}noarch/tzdata-2026b-h0.conda"}
    ours.lock["packages"].append(new)
    files = ours.files("b300-cuda13", "p2")
    files[files.index({"conda": old["conda"]})] = {"conda": new["conda"]}


def other_platform(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace('cuda = "12.8", glibc = "2.31"', 'cuda = "12.8", glibc = "2.35"')


def platform_elsewhere(ours: LockedWorkspace) -> None:
    ours.lock["environments"]["default"]["packages"]["p3"] = ours.files("default", "linux-aarch64")


def new_dependency(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace("[dependencies]", '[dependencies]\ncmake = ">=4"')


def dropped_dependency(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace('ninja = "*"\n', "")


def no_spec(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace('ninja = "*"\n', 'ninja = ">=<"\n')


def extra_environment(ours: LockedWorkspace) -> None:
    ours.lock["environments"]["spare"] = copy.deepcopy(ours.lock["environments"]["default"])


def new_environment(ours: LockedWorkspace) -> None:
    ours.manifest += 'spare = { features = ["cpu"] }\n'


def python_distribution(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace("[feature.cpu]", '[feature.cpu.dependencies]\npip = "*"\n[feature.cpu]')
    address = f"{FORGE}noarch/pip-26.0-pyh0.conda"
    ours.lock["packages"].append({"conda": address, "sha256": "0" * 64, "depends": ["python >=3.10"]})
    for files in ours.lock["environments"]["default"]["packages"].values():
        files.append({"conda": address})


def index_package(ours: LockedWorkspace) -> None:
    address = "https://example.org/numpy-2.4.6-cp312-cp312-linux_x86_64.whl"
    package = {"pypi": address, "name": "numpy", "version": "2.4.6", "sha256": "0" * 64}
    ours.lock["packages"].append(package)
    ours.files("default", "linux-64").append({"pypi": address})


def other_machine(ours: LockedWorkspace) -> None:
    files = ours.files("default", "linux-64")
    old, new = (ours.package(f"{subdir}/git-")["conda"] for subdir in ("linux-64", "linux-aarch64"))
    files[files.index({"conda": old})] = {"conda": new}


def twice(ours: LockedWorkspace) -> None:
    old = ours.package("linux-64/ninja-")
    new = {**old, "conda": f"{FORGE}linux-64/ninja-9.0-h0.conda"}
    ours.lock["packages"].append(new)
    ours.files("train", "p1").append({"conda": new["conda"]})


def option(ours: LockedWorkspace) -> None:
    ours.lock["environments"]["gh200"]["options"] = {"channel-priority": "disabled"}


def index_of_python(ours: LockedWorkspace) -> None:
    ours.lock["environments"]["gh200"]["indexes"] = ["https://example.org/simple"]


def compiler_that_nvcc_refuses(ours: LockedWorkspace) -> None:
    old = ours.package("linux-64/gcc_impl_linux-64-")["conda"]
    ours.rename(old, f"{FORGE}linux-64/gcc_impl_linux-64-15.1.0-h0.conda")


def newer_glibc_needed(ours: LockedWorkspace) -> None:
    ours.package("linux-64/git-")["depends"].append("__glibc >=2.30")


def two_channels(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace('["conda-forge"]', '["conda-forge", "bioconda"]')


def older_format(ours: LockedWorkspace) -> None:
    ours.lock["version"] = 6


def wrong_manifest(ours: LockedWorkspace) -> None:
    ours.manifest = ours.manifest.replace("[feature.cpu]", "[feature.cpus]")


MUTATIONS: list[tuple[Callable[[LockedWorkspace], None], list[str]]] = [
    (another_python, ["default on osx-arm64-macos14: python 3.11.9 does not fit: pixi.toml asks for 'python 3.12.*'"]),
    (missing, ["train on linux-64-cuda12: libexpat is missing: ", "asks for 'libexpat >=2"]),
    (superfluous, ["default on linux-64: ninja is locked, but nothing asks for it"]),
    (unused, ["ninja-9.0-h0.conda: no environment uses it"]),
    (other_channel, [f"eval: channels https://conda.anaconda.org/bioconda/: expected {FORGE}"]),
    (other_source, ["comes from https://conda.anaconda.org/bioconda/linux-aarch64/git-", f"expected {FORGE}"]),
    (no_hash, ["git-", "has no sha256: expected one for every file"]),
    (drift, ["solve group 'b300' on linux-64-cuda13: b300 has tzdata-2026c-", "b300-cuda13 has tzdata-2026b-h0.conda"]),
    (
        other_platform,
        ["train: platform linux-64-cuda12 (linux-64, __cuda=12.8, __glibc=2.35) of pixi.toml is not locked"],
    ),
    (other_platform, ["platform p1 (linux-64, __cuda=12.8, __glibc=2.31) is not declared in pixi.toml"]),
    (platform_elsewhere, ["default: platform p3 is locked, but is none of this environment's"]),
    (new_dependency, ["gh200 on linux-aarch64-cuda13: cmake is missing: pixi.toml asks for 'cmake >=4'"]),
    (dropped_dependency, ["eval on linux-64-cuda12: ninja is locked, but nothing asks for it"]),
    (no_spec, ["train on linux-64-cuda12: pixi.toml asks for 'ninja >=<': expected a conda spec"]),
    (extra_environment, ["environment 'spare' is locked, but not in pixi.toml"]),
    (new_environment, ["environment 'spare' of pixi.toml is not locked"]),
    (python_distribution, ["pip-26.0-pyh0.conda: a Python distribution (needs python >=3.10)"]),
    (
        index_package,
        ["https://example.org/numpy-2.4.6", "a pypi package: expected conda packages only; Python's are in"],
    ),
    (other_machine, ["default on linux-64: git-", "is for linux-aarch64: expected linux-64 or noarch"]),
    (twice, ["train on linux-64-cuda12: ninja is locked twice, as ninja-1.", "and ninja-9.0-h0.conda"]),
    (option, ["gh200: option channel-priority = disabled: expected strict"]),
    (index_of_python, ["gh200: 'indexes' is locked: expected channels, options and packages only"]),
    (
        compiler_that_nvcc_refuses,
        ["train on linux-64-cuda12: gcc_impl_linux-64 15.1.0 does not fit: cuda-nvcc", "<15.0a0'"],
    ),
    (newer_glibc_needed, ["default on linux-64: __glibc 2.28 does not fit: git asks for '__glibc >=2.30'"]),
    (
        two_channels,
        [f"channels of pixi.toml are {FORGE}, https://conda.anaconda.org/bioconda/: expected {FORGE} alone"],
    ),
    (older_format, ["format version 6: expected 7"]),
    (wrong_manifest, ["pixi.toml: [environments.default]: feature 'cpu' is not defined"]),
]


@pytest.mark.parametrize(("mutate", "expected"), MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_lock_that_does_not_fit_is_found_and_its_place_named(
    ours: LockedWorkspace, mutate: Callable[[LockedWorkspace], None], expected: list[str]
) -> None:
    mutate(ours)
    found = ours.problems()
    assert [line for line in found if all(part in line for part in expected)], "\n".join(found)
    assert all(line.startswith(("pixi.lock: ", "pixi.toml: ")) and "\n" not in line for line in found)


def test_an_unchanged_copy_has_no_problems_so_each_finding_is_the_changes_own(ours: LockedWorkspace) -> None:
    assert ours.problems() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD\nversion: 7\n", "cannot be understood"),
        ("version: 7\n", "cannot be understood: missing field `environments`"),
        ("", "format version None: expected 7"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_lock_is_one_line(ours: LockedWorkspace, text: str | None, message: str) -> None:
    ours.write()
    (ours.root / "pixi.lock").unlink()
    if text is not None:
        (ours.root / "pixi.lock").write_text(text)
    (line,) = native_lock.problems(ours.root)
    assert line.startswith("pixi.lock: ")
    assert message in line
