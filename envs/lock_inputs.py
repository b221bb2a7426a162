"""What a Python lock is made from, and its hash: sync refuses a lock that was made from other inputs. Standard library only."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

INCLUDE = re.compile(r"^-r (\S+)$", re.MULTILINE)


def declared(root: Path) -> dict[str, list[str]]:
    """The requirements that each of our packages declares, by its project name."""
    projects = [
        tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(root.glob("packages/*/pyproject.toml"))
    ]
    return {p["project"]["name"]: p["project"]["dependencies"] + p["build-system"]["requires"] for p in projects}


def requirement_files(folder: Path) -> list[Path]:
    """requirements.in and the files that it includes with `-r`, the outermost first."""
    found = [folder / "requirements.in"]
    for path in found:
        text = path.read_text(encoding="utf-8")
        found += [
            included for name in INCLUDE.findall(text) if (included := (path.parent / name).resolve()) not in found
        ]
    return found


def override_files(root: Path, gpu: bool) -> list[Path]:
    """The requirements of others that the locks leave out."""
    return [root / "envs" / "overrides.in", *([root / "envs" / "gpu-overrides.in"] if gpu else [])]


def inputs_hash(root: Path, folder: Path) -> str:
    """Identifies everything that the lock of a folder is made from; comments do not count."""
    profile = tomllib.loads((folder / "profile.toml").read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    paths = requirement_files(folder) + override_files(root, "cuda" in profile)
    if (folder / "metadata.toml").exists():
        paths.append(folder / "metadata.toml")
    for path in paths:
        lines = [line.partition("  #")[0].rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
        kept = "\n".join(line for line in lines if line and not line.startswith("#"))
        digest.update(f"{path.name}\n{kept}\n".encode())
    for name, requirements in sorted(declared(root).items()):
        digest.update(f"{name}: {sorted(requirements)}\n".encode())
    platform = [profile.get(key) for key in ("python", "machines", "glibc")]
    digest.update(repr([platform, sorted(profile.get("torch-cpu", {}).get("sha256", {}).values())]).encode())
    return digest.hexdigest()
