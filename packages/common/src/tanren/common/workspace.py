"""Where things are: the workspace's root, the cache, the lock files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


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


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
