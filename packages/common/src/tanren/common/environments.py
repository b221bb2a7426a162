"""The environments: which machines and GPUs each is for, read from envs/*/profile.toml and envs/architectures.toml.

Standard library only: envs/sync.py reads it before any package is installed. The doctor, the planner, the lock
tests and the documentation read the same files; there is no second table.
"""

from __future__ import annotations

import difflib
import platform
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cuda:
    """The CUDA side of an environment: versions as text ('12.9', '570.26')."""

    wheels: str
    """Build of torch and vLLM: 'cu129'."""
    toolkit: str
    """Of nvcc and ptxas in pixi.lock."""
    driver: str
    """The least driver."""
    compat: bool
    """Whether the environment has cuda-compat for data-centre GPUs with an older driver."""


@dataclass(frozen=True)
class Profile:
    """One folder of envs/: the pixi environments that share its lock, and the machines that they are for."""

    folder: Path
    name: str
    environments: tuple[str, ...]
    why: str
    machines: tuple[str, ...]
    """As platform.machine() names them."""
    python: str
    """Version specifiers."""
    glibc: str
    """The least, on Linux; '' for any."""
    compute_capabilities: tuple[str, ...]
    """Served, lowest first; none for the CPU environment."""
    cuda: Cuda | None


@dataclass(frozen=True)
class Architecture:
    """One generation of GPUs."""

    compute_capability: str
    gpus: tuple[str, ...]
    least_toolkit: str
    """The first CUDA toolkit whose ptxas knows it."""

    @property
    def sm(self) -> str:
        """The name that ptxas gives it: 'sm_103'."""
        return sm_name(self.compute_capability)


@dataclass(frozen=True)
class Architectures:
    """envs/architectures.toml."""

    known: tuple[Architecture, ...]
    least_driver: dict[str, str]
    """By toolkit: the driver that came with it."""
    not_data_center: tuple[str, ...]
    """Words in the name of a card for which cuda-compat is not made."""


class EnvironmentsError(Exception):
    """A profile that cannot be read, or an environment that does not exist; the message says all."""


@dataclass(frozen=True)
class Host:
    """What of this machine decides whether an environment can be installed; '' where it is not known."""

    machine: str
    glibc: str
    driver: str
    """Version of NVIDIA's kernel driver; '' without one."""
    gpu_names: tuple[str, ...]


def read_host() -> Host:
    """Return this machine's facts, from files alone (no NVML, no process: a few milliseconds)."""
    library, version = platform.libc_ver()
    driver = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _text(Path("/proc/driver/nvidia/version")))
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [re.search(r"^Model:\s*(.+)$", _text(card), re.MULTILINE) for card in cards]
    return Host(
        platform.machine(),
        version if library == "glibc" else "",
        driver[1] if driver else "",
        tuple(model[1].strip() for model in models if model),
    )


def cpu_model() -> str:
    """Return what this machine's CPU calls itself; where it does not say, its architecture."""
    model = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def read_profiles(root: Path) -> tuple[Profile, ...]:
    """Return the profiles of a workspace, by name."""
    return tuple(_profile(path) for path in sorted((root / "envs").glob("*/profile.toml")))


def environments_with_cuda(root: Path | None) -> list[str]:
    """Return the pixi environments that carry the GPU stacks, by name; none outside a workspace."""
    if root is None:
        return []
    return [name for profile in read_profiles(root) if profile.cuda for name in profile.environments]


def profile_of(root: Path, environment: str) -> Profile:
    """Return the profile whose lock the pixi environment installs; EnvironmentsError with the nearest names."""
    profiles = read_profiles(root)
    names = {name: profile for profile in profiles for name in profile.environments}
    if environment not in names:
        near = difflib.get_close_matches(environment, names, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise EnvironmentsError(f"there is no environment '{environment}': expected one of {', '.join(names)}{hint}")
    return names[environment]


def read_architectures(root: Path) -> Architectures:
    """Return the table of GPU architectures."""
    table = _toml(root / "envs" / "architectures.toml")
    known = [
        Architecture(entry["compute_capability"], tuple(entry["gpus"]), entry["least_toolkit"])
        for entry in table["architecture"]
    ]
    drivers = {entry["version"]: entry["least_driver"] for entry in table["toolkit"]}
    return Architectures(tuple(known), drivers, tuple(table["not_data_center"]))


def refusals(profile: Profile, host: Host, architectures: Architectures) -> list[str]:
    """Return why the environment cannot be used on the host, one line each; a host without a driver is no reason."""
    found: list[str] = []
    if host.machine not in profile.machines:
        found.append(f"it is for {' and '.join(profile.machines)}, and this machine is {host.machine}")
    if profile.glibc and host.glibc and version_key(host.glibc) < version_key(profile.glibc):
        found.append(f"its wheels need glibc {profile.glibc} or newer, and this machine has {host.glibc}")
    if profile.cuda and host.driver and version_key(host.driver) < version_key(profile.cuda.driver):
        fault = f"it needs NVIDIA driver {profile.cuda.driver} or newer, and this machine has {host.driver}"
        if not (profile.cuda.compat and is_data_center(host.gpu_names, architectures)):
            found.append(fault)
    return found


def needs_compat(profile: Profile, host: Host, architectures: Architectures) -> bool:
    """Whether the environment runs on the host's driver by its cuda-compat alone."""
    if profile.cuda is None or refusals(profile, host, architectures):
        return False
    return bool(refusals(replace(profile, cuda=replace(profile.cuda, compat=False)), host, architectures))


def unserved(profile: Profile, capability: str, architectures: Architectures) -> str:
    """Return why the environment cannot serve a GPU of a compute capability, '' where it does.

    A capability that envs/architectures.toml does not have is served by rule, unless it is older than all of the
    profile's: its kernels may run on it, and only running them proves it.
    """
    if capability in profile.compute_capabilities:
        return ""
    lowest = min(profile.compute_capabilities, key=version_key, default="")
    if is_unknown(capability, architectures) and lowest and version_key(capability) > version_key(lowest):
        return ""
    served = ", ".join(profile.compute_capabilities) or "none"
    return f"it does not serve compute capability {capability}, only {served}"


def is_unknown(capability: str, architectures: Architectures) -> bool:
    """Whether a compute capability is none of envs/architectures.toml."""
    return all(capability != known.compute_capability for known in architectures.known)


def is_data_center(gpu_names: tuple[str, ...], architectures: Architectures) -> bool:
    """Whether every card is a data-centre GPU (False where no card is known)."""
    return bool(gpu_names) and not any(word in name for name in gpu_names for word in architectures.not_data_center)


def sm_name(capability: str) -> str:
    """Return what ptxas calls a compute capability: '10.3' -> 'sm_103'."""
    return "sm_" + capability.replace(".", "")


def version_key(version: str) -> tuple[int, ...]:
    """Return a version's numbers, to compare: '575.51.03' -> (575, 51, 3)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _profile(path: Path) -> Profile:
    table = _toml(path)
    known = {"torch-cpu", "cuda", *Profile.__dataclass_fields__} - {"folder"}
    try:
        if unknown := sorted(set(table) - known):
            raise EnvironmentsError(f"{path}: unknown keys {unknown}: expected {sorted(known)}")
        cuda = Cuda(**table["cuda"]) if "cuda" in table else None
        return Profile(
            path.parent,
            table["name"],
            tuple(table["environments"]),
            table["why"],
            tuple(table["machines"]),
            table["python"],
            table.get("glibc", ""),
            tuple(table["compute_capabilities"]),
            cuda,
        )
    except KeyError as missing:
        raise EnvironmentsError(f"{path}: the key {missing} is missing") from missing
    except TypeError as fault:
        raise EnvironmentsError(f"{path}: [cuda]: {fault}") from fault


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
