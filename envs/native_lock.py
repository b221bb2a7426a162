"""Makes pixi.lock again, and says whether it fits pixi.toml: the native half of `./pixiw run lock`.

From an index folder where one is named (native_solve.py: no network, no pixi), else with pixi. What the index folder
gives is written aside and takes the old lock's place only when native_check finds nothing wrong with it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import manifest as manifest_file
import native_check
import native_solve
from native_solve import NativeLockError
from strict_table import ManifestError

LEAST_PIXI = (0, 75)  # requires-pixi in pixi.toml


def problems(root: Path) -> list[str]:
    """What is wrong with the workspace's pixi.toml and pixi.lock, one line each; needs no network."""
    try:
        manifest = manifest_file.read(root / "pixi.toml")
        native_solve.need_rattler("pixi.lock was not checked")
    except (ManifestError, NativeLockError) as fault:
        return [str(fault)]
    return native_check.problems(manifest, root / "pixi.lock")


def refresh(root: Path, index: Path | None, upgrade: bool) -> str:
    """Make pixi.lock again and return one line of what was done.

    From the index folder where one is given, else with pixi. NativeLockError says what is missing, or what does not
    solve; ManifestError what is wrong in pixi.toml. The old lock is then still there.
    """
    manifest = manifest_file.read(root / "pixi.toml")
    lock = root / "pixi.lock"
    before = lock.read_bytes() if lock.exists() else b""
    if index is not None:
        aside = lock.with_name("pixi.lock.partial")
        try:
            native_solve.solve(manifest, index, aside, previous=None if upgrade or not before else lock)
            if found := native_check.problems(manifest, aside):
                raise NativeLockError("\n".join([f"what {index} gives is refused; pixi.lock is as it was:", *found]))
            aside.replace(lock)
        finally:
            aside.unlink(missing_ok=True)
        how = f"solved from {index}"
    else:
        how = _with_pixi(root, upgrade)
    after = lock.read_bytes()
    count = len(re.findall(rb"^- conda: ", after, re.MULTILINE))
    return f"pixi.lock: {'unchanged' if before == after else 'made again'}: {count} packages, {how}"


def _with_pixi(root: Path, upgrade: bool) -> str:
    """Run `pixi lock` or `pixi update`; its own messages go where ours go."""
    pixi = find_pixi(root, os.environ)
    # pixi update: --no-install, because only the lock is asked for; pixi lock installs nothing by itself
    verb = ["update", "--no-install"] if upgrade else ["lock"]
    done = subprocess.run([pixi, *verb, "--manifest-path", root / "pixi.toml"], cwd=root, check=False)
    shown = " ".join(["pixi", *verb])
    if done.returncode:
        raise NativeLockError(f"`{shown}` ended with code {done.returncode}: its message stands above", 3)
    return f"by `{shown}` ({pixi})"


def find_pixi(root: Path, environ: Mapping[str, str]) -> Path:
    """A pixi that reads this manifest: the one that runs us, on the PATH, in the home folder, or that pixiw fetched."""
    home = Path(environ.get("PIXI_HOME") or Path(environ.get("HOME", root), ".pixi"))
    places = [environ.get("PIXI_EXE", ""), shutil.which("pixi", path=environ.get("PATH", "")) or ""]
    places += [str(home / "bin" / "pixi"), *map(str, sorted((root / ".pixi" / "bin").glob("pixi*"), reverse=True))]
    older: list[str] = []
    for place in places:
        if not place or not os.access(place, os.X_OK) or Path(place).is_dir():
            continue
        answer = subprocess.run([place, "--version"], capture_output=True, text=True, check=False, env=dict(environ))
        version = re.match(r"pixi (\d+)\.(\d+)", answer.stdout)
        if version and (int(version[1]), int(version[2])) >= LEAST_PIXI:
            return Path(place)
        older.append(f"{place} says '{answer.stdout.strip()}'")
    least = ".".join(map(str, LEAST_PIXI))
    found = f"found {'; '.join(older)}" if older else "found none"
    what = f"pixi.lock is made by pixi {least} or newer ({found}) or from a folder with conda-forge's repodata.json"
    raise NativeLockError(f"{what}: install pixi, or name the folder with --index")
