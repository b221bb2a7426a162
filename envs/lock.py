"""Makes the Python locks of the default environment, or checks them: `./pixiw run lock [--check|--upgrade]`.

In: envs/default/requirements.in (pins, test tools), overrides.in, and the dependencies that
packages/*/pyproject.toml declare. Out: envs/default/requirements.lock, the base, whose torch accepts
PyTorch's CPU builds and the ordinary one; cuda-runtime.lock, what the ordinary Linux torch needs beside
it; envs/uv.lock, the installer. No lock names an index: each installs from any index, mirror or wheel
folder. A version moves only with --upgrade.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "envs" / "default"
ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
# What torch's ordinary Linux wheel loads of CUDA carries these names; split_cuda checks who asks for it.
CUDA_PART = re.compile(r"^(nvidia-.+|cuda-.+|triton)$")
INPUTS = "# inputs: sha256:"


@dataclass(frozen=True)
class Entry:
    """One pinned package: its marker ('' for none), sha256 hashes, and who asks for it (where annotated)."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    via: tuple[str, ...] = ()

    def text(self) -> str:
        """The entry as the installer reads it."""
        marker = f" ; {self.marker}" if self.marker else ""
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(self.hashes))
        return f"{self.name}=={self.version}{marker}{hashes}\n"


def parse(text: str) -> list[Entry]:
    """The entries of a lock; a line that is neither comment, entry nor hash is an error."""
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := ENTRY.match(stripped):
            entries.append(Entry(match["name"], match["version"], match["marker"] or "", ()))
        elif digest := HASH.match(stripped):
            entries[-1] = Entry(**{**vars(entries[-1]), "hashes": (*entries[-1].hashes, digest[1])})
        elif stripped.startswith("# via") and line.startswith(" "):
            via = tuple(part.strip() for part in stripped.removeprefix("# via").split(",") if part.strip())
            entries[-1] = Entry(**{**vars(entries[-1]), "via": via})
        elif stripped and not stripped.startswith(("#", "--index-url", "--extra-index-url")):
            raise ValueError(f"line {number} of the lock is not understood: {line!r}")
    return entries


def split_cuda(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """(base, CUDA runtime), by name; an error where another package than torch asks for the runtime."""
    names = {entry.name for entry in entries if CUDA_PART.match(entry.name)}
    for entry in entries:
        others = set(entry.via) - names - {"torch"} if entry.name in names else set()
        if others:
            raise ValueError(
                f"{entry.name} is asked for by {sorted(others)} too: it belongs to the base; narrow CUDA_PART"
            )
    return [e for e in entries if e.name not in names], [e for e in entries if e.name in names]


def declared() -> dict[str, list[str]]:
    """The requirements that each of our packages declares, by its project name."""
    projects = [tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]
    return {p["project"]["name"]: p["project"]["dependencies"] + p["build-system"]["requires"] for p in projects}


def inputs_hash() -> str:
    """Identifies everything that the locks are made from."""
    digest = hashlib.sha256()
    for path in (DEFAULT / "requirements.in", DEFAULT / "overrides.in", ROOT / "envs" / "uv.in"):
        digest.update(path.read_bytes())
    for name, requirements in sorted(declared().items()):
        digest.update(f"{name}: {sorted(requirements)}\n".encode())
    digest.update(repr(sorted(cpu_hashes())).encode())
    return digest.hexdigest()


def cpu_hashes() -> list[str]:
    """The sha256 of PyTorch's CPU builds, which the index does not list."""
    return list(tomllib.loads((DEFAULT / "profile.toml").read_text())["torch-cpu"]["sha256"].values())


def problems() -> list[str]:
    """What is wrong with the committed locks; needs no network."""
    found: list[str] = []
    paths = [DEFAULT / "requirements.lock", DEFAULT / "cuda-runtime.lock", ROOT / "envs" / "uv.lock"]
    locks = {path: parse(path.read_text()) for path in paths}
    for path, entries in locks.items():
        name = path.relative_to(ROOT)
        if INPUTS + inputs_hash() not in path.read_text():
            found.append(f"{name}: made from other inputs than there are now: run `./pixiw run lock`")
        found += [f"{name}: {e.name}=={e.version} has no hash" for e in entries if not e.hashes]
    base = locks[paths[0]]
    missing = set(cpu_hashes()) - {digest for e in base if e.name == "torch" for digest in e.hashes}
    found += [f"requirements.lock: torch lacks the CPU build's hash {digest}" for digest in sorted(missing)]
    return found + unsatisfied(base)


def unsatisfied(base: list[Entry]) -> list[str]:
    """The requirements of our packages that the lock does not meet, on every Python that it serves."""
    found: list[str] = []
    ours = declared()
    for package, text in ((package, text) for package, texts in ours.items() for text in texts):
        requirement = Requirement(text)
        versions = [e.version for e in base if e.name == canonicalize_name(requirement.name)]
        if not versions and requirement.name not in ours:
            found.append(f"{package} needs {text}: not in requirements.lock")
        wrong = [v for v in versions if not requirement.specifier.contains(v, prereleases=True)]
        found += [f"{package} needs {text}: requirements.lock has {version}" for version in wrong]
    return found


def compile_lock(inputs: list[Path], previous: str, overrides: str) -> list[Entry]:
    """Resolves for every supported Python and machine at once; keeps `previous` versions where they fit."""
    env = {k: v for k, v in os.environ.items() if k not in ("UV_FIND_LINKS", "UV_NO_INDEX")}
    with tempfile.TemporaryDirectory() as folder:
        out, override_file = Path(folder, "out.lock"), Path(folder, "overrides.txt")
        out.write_text(previous)
        override_file.write_text(overrides)
        command = [
            "uv",
            "pip",
            "compile",
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--no-header",
        ]
        command += [
            "--annotation-style",
            "line",
            "--quiet",
            "--overrides",
            str(override_file),
            "--output-file",
            str(out),
        ]
        subprocess.run([*command, *map(str, inputs)], check=True, env=env, cwd=ROOT)
        return parse(out.read_text())


def write(path: Path, what: str, entries: list[Entry]) -> None:
    """Writes a lock whole or not at all."""
    aside = path.with_name(path.name + ".partial")
    head = f"# {what}\n# Made by `./pixiw run lock`; do not edit.\n{INPUTS}{inputs_hash()}\n"
    aside.write_text(head + "".join(entry.text() for entry in entries))
    aside.replace(path)
    print(f"lock: {path.relative_to(ROOT)}: {len(entries)} packages")


def make(upgrade: bool) -> None:
    """Regenerates the three locks."""
    lock, cuda, uv = DEFAULT / "requirements.lock", DEFAULT / "cuda-runtime.lock", ROOT / "envs" / "uv.lock"
    previous = "" if upgrade else "".join(path.read_text() for path in (lock, cuda) if path.exists())
    never = "".join(f'{name} ; python_version < "0"\n' for name in declared())  # ours are installed from this folder
    sources = [DEFAULT / "requirements.in", *sorted(ROOT.glob("packages/*/pyproject.toml"))]
    entries = compile_lock(sources, previous, (DEFAULT / "overrides.in").read_text() + never)
    base, runtime = split_cuda(entries)
    torch = next(i for i, entry in enumerate(base) if entry.name == "torch")
    base[torch] = Entry(**{**vars(base[torch]), "hashes": tuple({*base[torch].hashes, *cpu_hashes()})})
    write(
        lock,
        "The Python packages of the default environment, for CPython 3.11-3.13 on Linux and macOS.",
        base,
    )
    write(cuda, "What torch's ordinary Linux wheel needs beside it; not installed beside a CPU build.", runtime)
    write(
        uv,
        "The installer that envs/sync.py bootstraps where the environment has none.",
        compile_lock([ROOT / "envs" / "uv.in"], "", ""),
    )


def main() -> int:
    """0 done or up to date; 1 checked and found wanting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only say whether the locks fit their inputs (no network)")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the inputs allow")
    arguments = parser.parse_args()
    if not arguments.check:
        make(arguments.upgrade)
    found = problems()
    for line in found:
        print(f"lock: {line}", file=sys.stderr)
    if not found:
        print("lock: up to date")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
