"""What a bundle is for: environment, platform, Python; and which wheels fit there."""

from __future__ import annotations

import platform as this_machine
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms

from tanren.common.environments import Profile, profile_of
from tanren.common.errors import UserError

MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64", "osx-arm64": "arm64"}
OLDEST_GLIBC_MINOR = 5  # manylinux1: no wheel asks for an older one
# PEP 600: the names that these had before
OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Target:
    """One environment on one platform."""

    environment: str
    profile: Profile
    platform: str
    """As pixi names it: 'linux-64'."""
    python: str
    """Full version."""
    python_only: bool
    conda: tuple[Mapping[str, Any], ...]
    """The records of pixi.lock; empty for a Python-only bundle."""
    channel: str
    names: tuple[str, ...]
    """The environment and its other names: the same Python lock and the same conda files."""
    system_version: tuple[int, int]
    """The least glibc (Linux) or macOS that pixi.lock was solved for."""

    @property
    def machine(self) -> str:
        """As platform.machine() names it."""
        return MACHINES[self.platform]

    @property
    def key(self) -> str:
        """As envs/<name>/profile.toml names a Python and machine: 'cp311-linux-x86_64'."""
        system = "darwin" if self.platform.startswith("osx") else "linux"
        return f"{self.interpreter}-{system}-{self.machine}"

    @property
    def interpreter(self) -> str:
        """The interpreter's tag: 'cp312'."""
        return "cp" + "".join(self.python.split(".")[:2])

    def tags(self) -> list[Tag]:
        """Return the tags of the wheels that run there, best first."""
        version = tuple(int(part) for part in self.python.split(".")[:2])
        platforms = list(self._platform_tags())
        first = cpython_tags(version, abis=[self.interpreter], platforms=platforms)
        return [*first, *compatible_tags(version, self.interpreter, platforms)]

    def markers(self) -> dict[str, str]:
        """Return the environment that a lock's markers are evaluated in."""
        mac = self.platform.startswith("osx")
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Darwin" if mac else "Linux",
            "platform_version": "",
            "python_full_version": self.python,
            "python_version": ".".join(self.python.split(".")[:2]),
            "sys_platform": "darwin" if mac else "linux",
        }

    def _platform_tags(self) -> Iterator[str]:
        if self.platform.startswith("osx"):
            yield from mac_platforms(self.system_version, self.machine)
            return
        for minor in range(self.system_version[1], OLDEST_GLIBC_MINOR - 1, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
            if minor in OLD_NAMES:
                yield f"{OLD_NAMES[minor]}_{self.machine}"
        yield f"linux_{self.machine}"


def read_target(root: Path, environment: str, platform: str, *, python_only: bool) -> Target:
    """Return the target that the user names; UserError where the locks do not have it.

    `platform` may be '' where the environment has one platform, and for `default` means this machine's.
    """
    profile = profile_of(root, environment)
    if python_only and profile.cuda is not None:
        fault = (
            f"--python-only: only `default` can be installed without pixi, and '{environment}' needs CUDA from conda"
        )
        raise UserError(f"{fault}: leave the flag out")
    if not (profile.folder / "requirements.lock").is_file():
        raise UserError(f"environment '{environment}' has no Python lock yet ({profile.folder / 'requirements.lock'})")
    lock = yaml.load((root / "pixi.lock").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    systems = {entry["name"]: entry for entry in lock["platforms"]}
    locked = lock["environments"][environment]
    subdirs = {systems[name].get("subdir", name): name for name in locked["packages"]}
    chosen = platform or (next(iter(subdirs)) if len(subdirs) == 1 else _this_platform())
    if chosen not in subdirs:
        raise UserError(f"environment '{environment}' has no platform '{chosen}': expected {', '.join(subdirs)}")
    addresses = [entry["conda"] for entry in locked["packages"][subdirs[chosen]]]
    channels = [channel["url"] for channel in locked["channels"]]
    if len(channels) != 1 or not all(address.startswith(channels[0]) for address in addresses):
        raise UserError(f"pixi.lock: environment '{environment}' has packages of several channels: a bundle holds one")
    records = {entry["conda"]: entry for entry in lock["packages"] if "conda" in entry}
    same = [
        name
        for name in profile.environments
        if lock["environments"].get(name, {}).get("packages", {}).get(subdirs[chosen])
        == locked["packages"][subdirs[chosen]]
    ]
    return Target(
        environment,
        profile,
        chosen,
        this_machine.python_version() if python_only else _python_of(addresses),
        python_only,
        () if python_only else tuple(records[address] for address in addresses),
        "" if python_only else channels[0],
        (environment, *(name for name in same if name != environment)),
        _system_version(systems[subdirs[chosen]]),
    )


def _this_platform() -> str:
    system = "osx" if sys.platform == "darwin" else "linux"
    machine = this_machine.machine()
    return next((name for name, here in MACHINES.items() if here == machine and name.startswith(system)), machine)


def _python_of(addresses: list[str]) -> str:
    found = [re.search(r"/python-(\d+\.\d+\.\d+)-[^/]+$", address) for address in addresses]
    return next(match[1] for match in found if match)


def _system_version(system: Mapping[str, Any]) -> tuple[int, int]:
    """Read '__glibc=2.28' or '__osx=13.0' of a platform's virtual packages."""
    packages = dict(package.split("=")[:2] for package in system["virtual-packages"] if "=" in package)
    major, minor = (packages.get("__osx") or packages["__glibc"]).split(".")[:2]
    return int(major), int(minor)
