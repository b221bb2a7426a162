"""Which environment is for this machine: of those that nothing speaks against, the newest toolkit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tanren.common.console import Console
from tanren.common.doctor._nvml import NOT_READ, Gpu, Reading, read_nvml
from tanren.common.doctor._subject import find_workspace, read_host_with
from tanren.common.doctor._visible import VARIABLE, visible_gpus
from tanren.common.environments import (
    Architectures,
    Host,
    Profile,
    is_unknown,
    needs_compat,
    read_architectures,
    read_profiles,
    refusals,
    unserved,
    version_key,
)
from tanren.common.errors import ExitCode, UserError


@dataclass(frozen=True)
class Option:
    """One environment, judged for this machine."""

    profile: Profile
    against: tuple[str, ...]
    """Why it cannot be used; empty where it can."""
    compat: bool = False
    """Whether it runs on this driver by cuda-compat alone."""

    @property
    def name(self) -> str:
        """Of the first of its environments."""
        return self.profile.environments[0]


@dataclass(frozen=True)
class Machine:
    """What decides."""

    host: Host
    gpus: tuple[Gpu, ...]
    """Those that CUDA_VISIBLE_DEVICES shows."""
    fault: str = ""
    """Why no GPU is known; '' where NVML answered."""
    hidden: int = 0
    """GPUs that CUDA_VISIBLE_DEVICES does not show."""

    @property
    def has_gpu(self) -> bool:
        """Whether a GPU is there, or is said to be by the driver."""
        return bool(self.gpus) or bool(self.fault and self.host.driver)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Of the GPUs, each once, lowest first."""
        return tuple(sorted({g.compute_capability for g in self.gpus if g.compute_capability}, key=version_key))

    def __str__(self) -> str:
        """Say what is judged, in one line."""
        glibc = f", glibc {self.host.glibc}" if self.host.glibc else ""
        names = [f"{gpu.name} ({gpu.compute_capability or 'compute capability not known'})" for gpu in self.gpus]
        counts = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
        none = f"{'GPUs not read' if self.has_gpu else 'no GPU'}{f' ({self.fault})' if self.fault else ''}"
        hidden = f" ({self.hidden} hidden by {VARIABLE})" if self.hidden else ""
        driver = f", driver {self.host.driver}" if self.host.driver else ""
        return f"{self.host.machine}{glibc}{driver}, {' and '.join(counts) or none}{hidden}"


@dataclass(frozen=True)
class Other:
    """An environment that is not the recommended one."""

    environment: str
    verdict: str
    """'would do' or 'no'."""
    because: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """The whole answer: what --json prints."""

    machine: str
    environment: str
    """'' where none fits."""
    command: str
    why: str
    """Where none fits: what would help."""
    others: tuple[Other, ...]


def options(machine: Machine, profiles: Iterable[Profile], architectures: Architectures) -> list[Option]:
    """Return the environments in order of preference; those that cannot be used come last.

    A GPU environment on its own driver is preferred to one by cuda-compat, a newer toolkit to an older one. With a GPU
    the CPU environment is not what is looked for, and without one no GPU environment is.
    """
    found = [_option(machine, profile, architectures) for profile in profiles]
    return sorted(found, key=_preference, reverse=True)


def _option(machine: Machine, profile: Profile, architectures: Architectures) -> Option:
    against = list(refusals(profile, machine.host, architectures))
    if profile.cuda and not machine.has_gpu:
        against.append("it is for GPUs, and there is none")
    elif profile.cuda:
        against += filter(None, (unserved(profile, capability, architectures) for capability in machine.capabilities))
    elif machine.has_gpu:
        against.append("it would leave the GPU unused: everything runs in it, on the CPU")
    return Option(profile, tuple(against), needs_compat(profile, machine.host, architectures))


def _preference(option: Option) -> tuple[bool, bool, tuple[int, ...]]:
    toolkit = option.profile.cuda.toolkit if option.profile.cuda else ""
    return not option.against, not option.compat, version_key(toolkit)


def chosen(found: list[Option]) -> Option | None:
    """Return the recommended one of `options`; None where nothing fits."""
    return found[0] if found and not found[0].against else None


def why(machine: Machine, option: Option, architectures: Architectures) -> str:
    """Return why an environment is recommended, in one sentence."""
    if option.profile.cuda is None:
        return "there is no GPU: it runs everything on the CPU"
    compat = ", by cuda-compat" if option.compat else ""
    newest = (
        f"driver {machine.host.driver} runs CUDA {option.profile.cuda.toolkit}{compat}: the newest toolkit that fits"
    )
    if not machine.capabilities:
        return f"{newest}; the GPUs themselves could not be judged"
    served = " and ".join(machine.capabilities)
    new = [capability for capability in machine.capabilities if is_unknown(capability, architectures)]
    proof = f" ({' and '.join(new)} is in no table yet: judged by rule, try a short run first)" if new else ""
    return f"{newest}, and it is made for compute capability {served}{proof}"


def what_helps(machine: Machine, profiles: Iterable[Profile], architectures: Architectures) -> str:
    """Return what would make an environment fit where none does, in one sentence."""
    newest = replace(machine, host=replace(machine.host, driver="99999"))
    drivers = {
        profile.cuda.driver: profile.environments[0]
        for profile in profiles
        if profile.cuda and not _option(newest, profile, architectures).against
    }
    if machine.has_gpu and drivers:
        driver = min(drivers, key=version_key)
        return f"install NVIDIA driver {driver} or newer: then {drivers[driver]} fits"
    return "use another machine: no driver changes what speaks against every environment"


def read_machine(wants_gpu: bool = True) -> Machine:
    """Return this machine; with `wants_gpu` False as if it had no GPU."""
    reading = read_nvml() if wants_gpu else NOT_READ
    return machine_of(read_host_with(reading), reading if wants_gpu else Reading(), os.environ)


def machine_of(host: Host, reading: Reading, variables: Mapping[str, str]) -> Machine:
    """Return the machine of a reading, with the GPUs that the variables show."""
    seen, _ = visible_gpus(reading.gpus, variables)
    gpus = tuple(dict.fromkeys(one.gpu for one in seen))
    hidden = len(reading.gpus) - len(gpus)
    return Machine(host, tuple(gpu for gpu in gpus if not gpu.fault), reading.fault, hidden)


def run_recommend(*, expect_env: str | None, wants_gpu: bool, as_json: bool) -> int:
    """Print the environment for this machine, why, and what of the others; return the exit code.

    Raises UserError outside a workspace, and where an environment is named: what is judged is the machine.
    """
    if expect_env is not None:
        raise UserError("--recommend looks for the environment: leave --expect-env out")
    root = find_workspace()
    answer = recommend(root, read_machine(wants_gpu))
    console = Console(stream=sys.stderr if as_json else sys.stdout)
    console.text(f"this machine: {answer.machine}")
    if answer.environment:
        console.text(f"recommended: {answer.environment}\n    {answer.command}\n    why: {answer.why}")
    else:
        console.text(f"no environment fits\n    fix: {answer.why}", style="bold red")
    for other in answer.others:
        console.text(f"{other.verdict:<9} {other.environment:<9} {'; '.join(other.because)}")
    if as_json:
        json.dump(asdict(answer), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    return ExitCode.DONE if answer.environment else ExitCode.FOUND_WANTING


def recommend(root: Path, machine: Machine) -> Recommendation:
    """Return the environment for a machine, why, and what of the others."""
    profiles, architectures = read_profiles(root), read_architectures(root)
    found = options(machine, profiles, architectures)
    best = chosen(found)
    return Recommendation(
        machine=str(machine),
        environment=best.name if best else "",
        command=f"./pixiw run -e {best.name} doctor" if best else "",
        why=why(machine, best, architectures) if best else what_helps(machine, profiles, architectures),
        others=tuple(
            Other(option.name, "no" if option.against else "would do", option.against or (_would_do(option),))
            for option in found
            if option != best
        ),
    )


def _would_do(option: Option) -> str:
    assert option.profile.cuda is not None  # the CPU environment is alone where it fits
    return "by cuda-compat, beside an older driver" if option.compat else f"CUDA {option.profile.cuda.toolkit}"
