"""The committed pixi.toml and pixi.lock in a folder of their own, to be changed, and an index made of what is locked."""

from __future__ import annotations

import copy
import json
import lzma
import re
from pathlib import Path
from typing import Any

import native_lock
import yaml

from .conftest import ROOT

MANIFEST = (ROOT / "pixi.toml").read_text()
LOCK: dict[str, Any] = yaml.load((ROOT / "pixi.lock").read_text(), Loader=yaml.CSafeLoader)
FORGE = "https://conda.anaconda.org/conda-forge/"


class LockedWorkspace:
    """A folder with the committed manifest and lock, to be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = MANIFEST
        self.lock = copy.deepcopy(LOCK)
        self.index: dict[str, dict[str, Any]] = {}

    def problems(self) -> list[str]:
        """What is found after writing both files."""
        self.write()
        return native_lock.problems(self.root)

    def write(self) -> None:
        """Both files, as they are now."""
        (self.root / "pixi.toml").write_text(self.manifest)
        (self.root / "pixi.lock").write_text(yaml.dump(self.lock, Dumper=yaml.CSafeDumper, sort_keys=False))

    def files(self, environment: str, platform: str) -> list[dict[str, str]]:
        """The files of an environment on a platform, by the lock's name for it (p1, ...)."""
        files: list[dict[str, str]] = self.lock["environments"][environment]["packages"][platform]
        return files

    def package(self, file: str) -> dict[str, Any]:
        """The package whose file begins so (SUBDIR/NAME-)."""
        found = [entry for entry in self.lock["packages"] if entry["conda"].startswith(FORGE + file)]
        assert len(found) == 1, (file, found)
        package: dict[str, Any] = found[0]
        return package

    def rename(self, old: str, new: str) -> None:
        """Gives a file another address, wherever it is locked."""
        listed = [files for e in self.lock["environments"].values() for files in e["packages"].values()]
        for entry in [*self.lock["packages"], *(entry for files in listed for entry in files)]:
            if entry["conda"] == old:
                entry["conda"] = new

    def add_to_index(self, name: str, version: str, depends: list[str]) -> None:
        """One more package for every platform, newer than the lock."""
        own = {"name": name, "version": version, "build": "h0", "build_number": 0, "depends": depends}
        rest = {"subdir": "noarch", "noarch": "generic", "sha256": "1" * 64, "size": 1, "timestamp": 1}
        self.index[f"{name}-{version}-h0.conda"] = {**own, **rest}

    def make_index(self, packed: bool = False) -> Path:
        """An index folder with exactly the locked packages, and those added to `self.index`."""
        folder = self.root / "index"
        content: dict[str, dict[str, Any]] = {s: {} for s in ("linux-64", "linux-aarch64", "osx-arm64", "noarch")}
        for package in LOCK["packages"]:
            subdir, file = package["conda"].removeprefix(FORGE).split("/")
            name, version, build = file.removesuffix(".conda").rsplit("-", 2)
            record = {key: value for key, value in package.items() if key != "conda"}
            number = re.search(r"_(\d+)$", build)  # the lock leaves out what the file's name and folder say
            derived: dict[str, Any] = {"build_number": int(number[1]) if number else 0}
            derived |= {"noarch": "generic"} if subdir == "noarch" else {}
            own = {"name": name, "version": version, "build": build, "subdir": subdir}
            content[subdir][file] = {"depends": [], **derived, **record, **own}
        content["noarch"] |= self.index
        for subdir, packages in content.items():
            text = json.dumps({"info": {"subdir": subdir}, "packages": {}, "packages.conda": packages}).encode()
            (folder / subdir).mkdir(parents=True, exist_ok=True)
            if packed:
                (folder / subdir / "repodata.json.xz").write_bytes(lzma.compress(text, preset=0))
            else:
                (folder / subdir / "repodata.json").write_bytes(text)
        return folder
