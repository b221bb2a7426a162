"""Makes and checks the Python locks: envs/*/requirements.lock, envs/default/cuda-runtime.lock, envs/uv.lock.

In: <folder>/requirements.in with what it includes, the overrides, and the dependencies that
packages/*/pyproject.toml declare (envs/lock_inputs.py). The CPU lock is universal: every supported Python
and machine, torch in PyTorch's CPU builds or the ordinary one, whose CUDA packages stand apart. A GPU lock
is for one platform and holds the wheels of that platform alone, so that nothing can be built from source.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lock_format import INPUTS, Entry, made_from, parse
from lock_inputs import declared, inputs_hash, override_files
from packaging import tags
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from tanren.common.environments import Profile, read_profiles

# What torch's ordinary Linux wheel loads of CUDA carries these names; split_cuda checks who asks for it.
# nvidia-ml-py, the doctor's way to NVML, is plain Python and belongs to the base.
CUDA_PART = re.compile(r"^(nvidia-(?!ml-py$).+|cuda-.+|triton)$")
GPU_PYTHON = (3, 12)
MADE_BY = "# Made by `./pixiw run lock`; do not edit.\n"


class LockError(Exception):
    """A lock cannot be made; the message says what the resolver said."""


def make(root: Path, profile: Profile, upgrade: bool) -> list[str]:
    """Make the lock of a folder again (and those beside it); returns one line per file written."""
    return make_gpu(root, profile, upgrade) if profile.cuda else make_cpu(root, profile, upgrade)


def make_cpu(root: Path, profile: Profile, upgrade: bool) -> list[str]:
    """The universal lock of the CPU environment, and apart what the ordinary Linux torch needs beside it."""
    lock, cuda = profile.folder / "requirements.lock", profile.folder / "cuda-runtime.lock"
    previous = "" if upgrade else "".join(path.read_text() for path in (lock, cuda) if path.exists())
    text = resolve(root, profile, previous, ["--universal", "--python-version", "3.11", "--generate-hashes"])
    base, runtime = split_cuda(parse(text))
    torch = next(i for i, entry in enumerate(base) if entry.name == "torch")
    base[torch] = Entry(**{**vars(base[torch]), "hashes": tuple({*base[torch].hashes, *cpu_hashes(profile.folder)})})
    inputs = inputs_hash(root, profile.folder)
    what = "The Python packages of the default environment, for CPython 3.11-3.13 on Linux and macOS."
    apart = "What torch's ordinary Linux wheel needs beside it; not installed beside a CPU build."
    return [write(root, lock, what, inputs, base), write(root, cuda, apart, inputs, runtime)]


def make_gpu(root: Path, profile: Profile, upgrade: bool) -> list[str]:
    """The lock of one platform: of every package the wheels for its machine, one of which fits its least glibc."""
    lock = profile.folder / "requirements.lock"
    target = ["--python-version", ".".join(map(str, GPU_PYTHON)), "--python-platform", uv_platform(profile)]
    # if-necessary-or-explicit: flash-attn-4 has only pre-releases, and is named as one
    options = [*target, "--only-binary", ":all:", "--prerelease", "if-necessary-or-explicit"]
    text = resolve(root, profile, "" if upgrade or not lock.exists() else lock.read_text(), options)
    with tempfile.TemporaryDirectory() as folder:
        pins, files = Path(folder, "pins.txt"), Path(folder, "pylock.toml")
        pins.write_text(text)
        listing = ["--universal", "--python-version", "3.12", "--only-binary", ":all:", "--no-deps"]
        listing += ["--prerelease", "allow", "--format", "pylock.toml", "--output-file", str(files)]
        uv(root, profile, [*listing, str(pins)])
        found = tomllib.loads(files.read_text())
    entries = [wheels_of(package, profile) for package in found["packages"]]
    what = f"The Python packages of {' and '.join(profile.environments)}: CPython 3.12, {uv_platform(profile)}."
    return [write(root, lock, what, inputs_hash(root, profile.folder), entries)]


def wheels_of(package: dict[str, Any], profile: Profile) -> Entry:
    """A package of pylock.toml as an entry with the wheels of the profile's platform."""
    name = package["name"]
    if archive := package.get("archive"):
        return Entry(name, package.get("version", ""), "", (archive["hashes"]["sha256"],), address=archive["url"])
    least, newest = int(profile.glibc.partition(".")[2]), 99
    tagged = {
        wheel["hashes"]["sha256"]: parse_wheel_filename(unquote(wheel["url"].rpartition("/")[2]))[3]
        for wheel in package.get("wheels", [])
    }
    if not any(found & supported_tags(profile, least) for found in tagged.values()):
        raise LockError(f"{name} {package['version']} has no wheel for {uv_platform(profile)}")
    # On a machine with a newer glibc the installer takes the wheel that was built for it: its hash belongs here too.
    fitting = supported_tags(profile, newest)
    return Entry(name, package["version"], "", tuple(digest for digest, found in tagged.items() if found & fitting))


def uv_platform(profile: Profile) -> str:
    """The platform as uv names it: 'x86_64-manylinux_2_31'."""
    return f"{profile.machines[0]}-manylinux_{profile.glibc.replace('.', '_')}"


@cache
def supported_tags(profile: Profile, glibc_minor: int) -> set[tags.Tag]:
    """The wheel tags that the profile's machine can install with glibc 2.<minor> (PEP 600: all up to it)."""
    machine = profile.machines[0]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc_minor, 4, -1)]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    platforms += [f"manylinux2010_{machine}", f"manylinux1_{machine}"] if machine == "x86_64" else []
    interpreter = f"cp{GPU_PYTHON[0]}{GPU_PYTHON[1]}"
    return {
        *tags.cpython_tags(GPU_PYTHON, platforms=platforms),
        *tags.compatible_tags(GPU_PYTHON, interpreter, platforms),
    }


def resolve(root: Path, profile: Profile, previous: str, options: list[str]) -> str:
    """The resolver's answer as annotated pins; keeps the versions of `previous` where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        out, overrides = Path(folder, "out.lock"), Path(folder, "overrides.txt")
        out.write_text(previous)
        never = "".join(f'{name} ; python_version < "0"\n' for name in declared(root))  # installed from this folder
        overrides.write_text("".join(path.read_text() for path in override_files(root, bool(profile.cuda))) + never)
        sources = [profile.folder / "requirements.in", *sorted(root.glob("packages/*/pyproject.toml"))]
        command = [*options, "--overrides", str(overrides), "--annotation-style", "line", "--output-file", str(out)]
        uv(root, profile, [*command, *map(str, sources)])
        return out.read_text()


def uv(root: Path, profile: Profile | None, arguments: list[str]) -> None:
    """Runs `uv pip compile`; LockError with its words where it fails."""
    # Not the user's wheel folders: a CPU wheel in one would be locked as the only file of torch.
    env = {key: value for key, value in os.environ.items() if key not in ("UV_FIND_LINKS", "UV_OFFLINE")}
    command = ["uv", "pip", "compile", "--no-header", "--quiet"]
    if profile and (profile.folder / "metadata.toml").exists():
        command += ["--config-file", str(profile.folder / "metadata.toml")]
    try:
        done = subprocess.run([*command, *arguments], env=env, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError as missing:
        raise LockError("uv is not on PATH: use `./pixiw run lock`, which brings it") from missing
    if done.returncode:
        raise LockError(f"{profile.name if profile else 'uv'}: no lock could be made: {done.stderr.strip()}")


def split_cuda(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """(base, CUDA runtime), by name; an error where another package than torch asks for the runtime."""
    names = {entry.name for entry in entries if CUDA_PART.match(entry.name)}
    for entry in entries:
        others = set(entry.via) - names - {"torch"} if entry.name in names else set()
        if others:
            raise LockError(
                f"{entry.name} is asked for by {sorted(others)} too: it belongs to the base; narrow CUDA_PART"
            )
    return [e for e in entries if e.name not in names], [e for e in entries if e.name in names]


def cpu_hashes(folder: Path) -> list[str]:
    """The sha256 of PyTorch's CPU builds, which the index does not list."""
    return list(tomllib.loads((folder / "profile.toml").read_text())["torch-cpu"]["sha256"].values())


def make_uv(root: Path) -> str:
    """The lock of the installer."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.lock")
        options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
        uv(root, None, [*options, "--output-file", str(out), str(root / "envs" / "uv.in")])
        entries = parse(out.read_text())
    what = "The installer that envs/sync.py bootstraps where the environment has none."
    return write(root, root / "envs" / "uv.lock", what, uv_inputs(root), entries)


def uv_inputs(root: Path) -> str:
    """Identifies what envs/uv.lock is made from."""
    return hashlib.sha256((root / "envs" / "uv.in").read_bytes()).hexdigest()


def write(root: Path, path: Path, what: str, inputs: str, entries: list[Entry]) -> str:
    """Writes a lock whole or not at all; returns what to say about it."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(f"# {what}\n{MADE_BY}{INPUTS}{inputs}\n" + "".join(entry.text() for entry in entries))
    aside.replace(path)
    return f"{path.relative_to(root)}: {len(entries)} packages"


def problems(root: Path) -> list[str]:
    """What is wrong with the committed locks; needs no network."""
    found: list[str] = []
    expected = {root / "envs" / "uv.lock": uv_inputs(root)}
    for profile in read_profiles(root):
        expected[profile.folder / "requirements.lock"] = inputs_hash(root, profile.folder)
        if not profile.cuda:
            expected[profile.folder / "cuda-runtime.lock"] = inputs_hash(root, profile.folder)
    for path, inputs in expected.items():
        name = path.relative_to(root)
        if not path.exists():
            found.append(f"{name}: there is none: run `./pixiw run lock`")
            continue
        text = path.read_text()
        if made_from(text) != inputs:
            found.append(f"{name}: made from other inputs than there are now: run `./pixiw run lock`")
        found += [f"{name}: {entry.name}=={entry.version} has no hash" for entry in parse(text) if not entry.hashes]
        if path.name == "requirements.lock":
            found += [f"{name}: {fault}" for fault in unsatisfied(root, parse(text))]
    default = parse((root / "envs/default/requirements.lock").read_text())
    missing = set(cpu_hashes(root / "envs/default")) - {h for e in default if e.name == "torch" for h in e.hashes}
    return found + [
        f"envs/default/requirements.lock: torch lacks the CPU build's hash {digest}" for digest in sorted(missing)
    ]


def unsatisfied(root: Path, entries: list[Entry]) -> list[str]:
    """The requirements of our packages that a lock does not meet, on every Python that it serves."""
    found: list[str] = []
    ours = declared(root)
    for package, text in ((package, text) for package, texts in ours.items() for text in texts):
        requirement = Requirement(text)
        versions = [e.version for e in entries if e.name == canonicalize_name(requirement.name)]
        if not versions and requirement.name not in ours:
            found.append(f"{package} needs {text}, which is not there")
        wrong = [v for v in versions if not requirement.specifier.contains(v, prereleases=True)]
        found += [f"{package} needs {text}, and {version} is there" for version in wrong]
    return found
