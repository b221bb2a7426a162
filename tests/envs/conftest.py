"""Fixtures of the environment tests: a copy of the wrapper in an empty workspace, and a PATH of stand-ins."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Workspace:
    """A folder with pixiw and what it starts without pixi, an empty home, and a PATH without pixi."""

    def __init__(self, root: Path) -> None:
        self.root = root / "workspace"
        self.bin = root / "bin"
        self.home = root / "home"
        for folder in (self.root / "envs", self.bin, self.home):
            folder.mkdir(parents=True)
        shutil.copy(ROOT / "pixiw", self.root)
        for name in ("index_run.py", "stop.py"):
            shutil.copy(ROOT / "envs" / name, self.root / "envs")
        (self.bin / "python3").symlink_to(Path(sys.prefix, "bin", "python"))

    def program(self, name: str, script: str) -> Path:
        """Puts a shell script on the PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def manifest(self, text: str) -> None:
        """Writes pixi.toml."""
        (self.root / "pixi.toml").write_text(text)

    def pixiw(self, *arguments: str, shell: str = "sh", **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs ./pixiw; whatever it would ask on the network is a closed port of this machine."""
        env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "PIXIW_RELEASE_BASE": "http://127.0.0.1:9",  # discard: nothing listens there
            "PIXIW_CHANNEL_BASE": "http://127.0.0.1:9",
            **variables,
        }
        command = [shell, str(self.root / "pixiw"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)
