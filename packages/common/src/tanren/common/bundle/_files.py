"""The files of a bundle before they are fetched: the conda files of pixi.lock, and pixi's own release."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tanren.common.errors import UserError

from ._target import Target

# uname's words for a platform, as pixiw's table of releases has them
UNAME = {"linux-64": "Linux-x86_64", "linux-aarch64": "Linux-aarch64", "osx-arm64": "Darwin-arm64"}


@dataclass(frozen=True)
class Wanted:
    """One file: where it goes, where it can be had, and what it must be."""

    kind: str
    path: str
    """In the bundle, with forward slashes."""
    address: str
    """http(s):// or file://."""
    sha256: str
    size: int | None
    """Bytes, where the lock or the index says."""


def conda_files(target: Target) -> list[Wanted]:
    """Return the conda files of the target; PIXIW_CHANNEL_BASE names a mirror of the channel, as for pixiw."""
    mirror = os.environ.get("PIXIW_CHANNEL_BASE") or target.channel
    files = []
    for record in target.conda:
        rest = record["conda"].removeprefix(target.channel)
        address = f"{mirror.rstrip('/')}/{rest}"
        files.append(Wanted("conda", f"conda/{rest}", address, record["sha256"], record.get("size")))
    return files


def pixi_file(root: Path, target: Target) -> Wanted:
    """Return pixi's release for the target as pixiw pins it; PIXIW_RELEASE_BASE names a mirror, as for pixiw."""
    text = (root / "pixiw").read_text(encoding="utf-8")
    version = re.search(r"^version=(\S+)", text, re.MULTILINE)
    base = re.search(r"^release=\$\{PIXIW_RELEASE_BASE:-(\S+)\}$", text, re.MULTILINE)
    rows = re.findall(r"^ +(\w+-\w+)(?: \| \S+)?\) name=(\S+); sum=([0-9a-f]{64}) ;;$", text, re.MULTILINE)
    row = next((row for row in rows if row[0] == UNAME[target.platform]), None)
    if version is None or base is None or row is None:
        raise UserError(
            f"{root / 'pixiw'}: its pinned release for {target.platform} was not found: expected as in the repository"
        )
    release = os.environ.get("PIXIW_RELEASE_BASE") or base[1].replace("$version", version[1])
    name = f"pixi-{row[1]}.tar.gz"
    return Wanted("pixi", f"pixi/{name}", f"{release}/{name}", row[2], None)
