"""Where things are: the workspace's root, the cache; and a file's hash. Standard library, Python 3.8: envs/ uses it too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time: small enough for a progress bar, large enough for the disk's full speed


def workspace_root() -> Path | None:
    """Return the folder of the workspace's pixi.toml: from the environment, else above the current folder."""
    named = os.environ.get("PIXI_PROJECT_ROOT")
    candidates = [Path(named)] if named else []
    here = Path.cwd()
    candidates += [here, *here.parents]
    return next(
        (folder for folder in candidates if (folder / "tasks").is_dir() and (folder / "pixi.toml").is_file()),
        None,
    )


def cache_folder() -> Path:
    """Return the folder for what can be made again (converted models): TANREN_CACHE_DIR, else the user's cache."""
    named = os.environ.get("TANREN_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "tanren"


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file's bytes as hex digits; `advance` hears of every piece that was read (bytes)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()
