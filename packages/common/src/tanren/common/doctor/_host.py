"""Is this machine one that the environment is for?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._subject import Subject
from tanren.common.environments import Host, needs_compat, read_profiles, refusals


def check_host(subject: Subject) -> Iterator[Finding]:
    """Yield machine and glibc, each judged alone by the rules of tanren.common.environments."""
    profile, host = subject.profile, subject.host
    any_host = Host(profile.machines[0], "", "", ())
    fitting = _fitting(subject)
    elsewhere = f"use an environment for this machine: {fitting}" if fitting else "no environment is for this machine"

    fits = _fits(subject, replace(any_host, machine=host.machine))
    yield judge(fits, "machine", host.machine, " or ".join(profile.machines), elsewhere)
    if profile.glibc:
        needed = f"{profile.glibc} or newer"
        if host.glibc:
            fits = _fits(subject, replace(any_host, glibc=host.glibc))
            yield judge(fits, "glibc", host.glibc, needed, f"a newer Linux distribution, or {elsewhere}")
        else:
            fix = "use a Linux distribution with glibc: the wheels are built for it"
            yield Finding("glibc", "not known", needed, Verdict.UNKNOWN, fix)


def check_driver(subject: Subject) -> Iterator[Finding]:
    """Yield NVIDIA's driver, judged alone; nothing for the CPU environment."""
    if subject.profile.cuda:
        own = Host(subject.profile.machines[0], "", subject.host.driver, subject.host.gpu_names)
        yield _driver(subject, own)


def _driver(subject: Subject, host: Host) -> Finding:
    assert subject.profile.cuda is not None
    needed = f"{subject.profile.cuda.driver} or newer"
    if not host.driver:
        if not subject.wants_gpu:
            return Finding("NVIDIA driver", "none (not asked for: --no-gpu)", needed, Verdict.OK)
        fix = (
            "install NVIDIA's driver (in a container: start it with the GPUs), or look without a GPU: "
            f"{subject.run('doctor --no-gpu')}"
        )
        return Finding("NVIDIA driver", "none", needed, Verdict.REFUSED, fix)
    fits = _fits(subject, host)
    found = (
        f"{host.driver}, helped by cuda-compat"
        if needs_compat(subject.profile, host, subject.architectures)
        else host.driver
    )
    fix = f"update NVIDIA's driver to {needed}"
    if fitting := _fitting(subject):
        fix += f", or use an environment for this machine: {fitting}"
    otherwise = Verdict.REFUSED if subject.wants_gpu else Verdict.WARNING
    return judge(fits, "NVIDIA driver", found, needed, fix, otherwise=otherwise)


def _fits(subject: Subject, host: Host) -> bool:
    return not refusals(subject.profile, host, subject.architectures)


def _fitting(subject: Subject) -> str:
    """The other environments that this machine could use, GPU environments first."""
    profiles = [
        profile
        for profile in read_profiles(subject.root)
        if profile != subject.profile and not refusals(profile, subject.host, subject.architectures)
    ]
    profiles.sort(key=lambda profile: profile.cuda is None)
    return ", ".join(profile.environments[0] for profile in profiles)
