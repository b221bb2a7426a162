"""Chooses torch's build for a CPU environment, and derives the installer's lock from the committed one.

In this order: PyTorch's CPU wheel from a wheel folder of the user; the same from PyTorch's release
address; the ordinary wheel and, on Linux, the CUDA packages without which it cannot be imported. The
hashes of the CPU wheels stand in profile.toml.
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from release_wheels import find

PROBE = 4  # s: long enough for a slow proxy, short enough for a start without a network
TORCH = re.compile(r"^torch==[0-9.]+ \\\n(?:    --hash=[^\n]*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Choice:
    """A build of torch: its line in the lock and its hash ('' keeps the lock's), why, how long it takes."""

    requirement: str
    sha256: str
    cuda_runtime: bool
    why: str
    expect: str


def machine_key() -> str:
    """This interpreter and machine as profile.toml names them: 'cp311-linux-x86_64'."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{sys.platform}-{platform.machine()}"


def choose(folder: Path, wheel_folders: Sequence[Path], offline: bool, key: str = "") -> Choice:
    """The build for this machine; `offline` leaves the release address out (the user forbade the index)."""
    key = key or machine_key()
    profile = tomllib.loads((folder / "profile.toml").read_text(encoding="utf-8"))
    builds = profile.get("torch-cpu", {})
    version = builds.get("version", "")
    sha256 = builds.get("sha256", {}).get(key, "")
    tag, system, machine = key.split("-")
    passed_over = [] if sha256 else [f"no CPU build is recorded for {key}"]
    if sha256:
        pattern = f"torch-{version}+cpu-{tag}-{tag}-*{machine}.whl"
        for wheel in (wheel for place in wheel_folders for wheel in sorted(place.glob(pattern))):
            find(wheel.name, [sha256], [wheel.parent])
            why = f"torch {version}: the CPU build in {wheel.parent}"
            return Choice(f"torch=={version}+cpu", sha256, False, why, "about 1 minute")
        address = builds["address"].format(version=version, tag=tag, machine=machine)
        fault = "the index is switched off" if offline else unreachable(address)
        if not fault:
            why = f"torch {version}: the CPU build of PyTorch's release address"
            return Choice(f"torch @ {address}", sha256, False, why, "about 2 minutes")
        passed_over.append(f"PyTorch's release address: {fault}")
    cuda = system == "linux"
    why = f"torch: the ordinary build{' and its CUDA packages' if cuda else ''} ({'; '.join(passed_over)})"
    expect = "2.5 GB to download, 4.6 GB on disk: several minutes" if cuda else "about 2 minutes"
    return Choice("", "", cuda, why, expect)


def unreachable(address: str) -> str:
    """Why an address cannot be had, in a few words; '' where it can."""
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 (the address is profile.toml's)
    try:
        with urllib.request.urlopen(request, timeout=PROBE):  # noqa: S310
            return ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except OSError as error:
        return str(error) or type(error).__name__


def derive(lock: str, choice: Choice) -> str:
    """The lock with torch's entry replaced by the chosen build's."""
    match = TORCH.search(lock)
    if not match:
        raise ValueError("the lock has no entry 'torch==VERSION'")
    entry = f"{choice.requirement} \\\n    --hash=sha256:{choice.sha256}\n" if choice.sha256 else match[0]
    return lock[: match.start()] + entry + lock[match.end() :]


def count(locks: Sequence[Path]) -> int:
    """How many packages the locks name for Linux or macOS, whatever the Python."""
    names = set()
    for lock in locks:
        for line in lock.read_text(encoding="utf-8").splitlines():
            if re.match(r"^[a-z0-9]", line) and "sys_platform == 'win32'" not in line:
                names.add(re.split(r"[= @]", line)[0])
    return len(names)
