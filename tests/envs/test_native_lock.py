"""pixi.lock is made again: from an index folder without a network, or with pixi; what cannot be done is one line."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import native_lock
import pytest
from native_solve import NativeLockError
from rattler import LockFile
from strict_table import ManifestError

from .conftest import ROOT
from .locked import LOCK, MANIFEST, LockedWorkspace


@pytest.fixture
def ours(tmp_path: Path) -> LockedWorkspace:
    return LockedWorkspace(tmp_path)


@pytest.fixture
def committed(ours: LockedWorkspace) -> LockedWorkspace:
    """With the committed lock, byte for byte."""
    ours.write()
    (ours.root / "pixi.lock").write_bytes((ROOT / "pixi.lock").read_bytes())
    return ours


def conda_index() -> Path:
    """The folder of real conda-forge records from which the committed lock was made, where it is at hand."""
    if named := os.environ.get("TANREN_CONDA_INDEX"):
        return Path(named)
    for place in (ROOT.parent / "shared" / "conda", ROOT.parent.parent / "shared" / "conda"):
        if (place / "noarch").is_dir():
            return place
    pytest.skip("no index folder of conda-forge is here: name the one that pixi.lock was made from, TANREN_CONDA_INDEX")


def test_the_lock_goes_through_the_reader_and_writer_of_pixis_library_unchanged(tmp_path: Path) -> None:
    LockFile.from_path(ROOT / "pixi.lock").to_path(tmp_path / "again.lock")
    assert (tmp_path / "again.lock").read_bytes() == (ROOT / "pixi.lock").read_bytes()


@pytest.mark.parametrize("upgrade", [False, True], ids=["keep", "upgrade"])
def test_solving_again_from_real_records_gives_the_committed_lock(committed: LockedWorkspace, upgrade: bool) -> None:
    said = native_lock.refresh(committed.root, conda_index(), upgrade)
    assert (committed.root / "pixi.lock").read_bytes() == (ROOT / "pixi.lock").read_bytes()
    assert said.startswith("pixi.lock: unchanged: ")


@pytest.mark.parametrize("packed", [False, True], ids=["json", "xz"])
def test_the_locked_packages_alone_solve_to_the_committed_lock(ours: LockedWorkspace, packed: bool) -> None:
    (ours.root / "pixi.toml").write_text(MANIFEST)
    index = ours.make_index(packed)
    said = native_lock.refresh(ours.root, index, upgrade=False)
    assert said == f"pixi.lock: made again: {len(LOCK['packages'])} packages, solved from {index}"
    assert (ours.root / "pixi.lock").read_bytes() == (ROOT / "pixi.lock").read_bytes()
    assert sorted(path.name for path in ours.root.iterdir()) == ["index", "pixi.lock", "pixi.toml"]


def newer_tzdata(ours: LockedWorkspace) -> str:
    """Adds it to the index; returns its file."""
    ours.add_to_index("tzdata", "2027a", [])
    return "tzdata-2027a-h0.conda"


def test_a_locked_version_stays_until_an_upgrade_is_asked_for(committed: LockedWorkspace) -> None:
    file = newer_tzdata(committed)
    index = committed.make_index()
    assert "unchanged" in native_lock.refresh(committed.root, index, upgrade=False)
    assert "made again" in native_lock.refresh(committed.root, index, upgrade=True)
    assert file in (committed.root / "pixi.lock").read_text()
    assert native_lock.problems(committed.root) == []


def test_a_changed_manifest_moves_only_what_it_must(committed: LockedWorkspace) -> None:
    newer_tzdata(committed)
    (committed.root / "pixi.toml").write_text(MANIFEST.replace('ninja = "*"\n', ""))
    native_lock.refresh(committed.root, committed.make_index(), upgrade=False)
    text = (committed.root / "pixi.lock").read_text()
    assert native_lock.problems(committed.root) == []
    assert "ninja-1" not in text
    assert "tzdata-2026c" in text


def test_what_cannot_be_solved_is_named_and_the_old_lock_stays(committed: LockedWorkspace) -> None:
    (committed.root / "pixi.toml").write_text(MANIFEST.replace('ninja = "*"', 'ninja = ">=99"'))
    with pytest.raises(NativeLockError, match=r"train and eval on linux-64-cuda12: no solution.*ninja >=99") as refused:
        native_lock.refresh(committed.root, committed.make_index(), upgrade=False)
    assert refused.value.code == 2
    assert (committed.root / "pixi.lock").read_bytes() == (ROOT / "pixi.lock").read_bytes()


def test_a_solution_that_breaks_our_rules_is_refused_and_the_old_lock_stays(committed: LockedWorkspace) -> None:
    committed.add_to_index("pip", "26.0", ["python"])
    (committed.root / "pixi.toml").write_text(MANIFEST.replace("[dependencies]", '[dependencies]\npip = "*"'))
    with pytest.raises(
        NativeLockError, match=r"is refused; pixi.lock is as it was:\n.*pip-26.0-h0.conda: a Python distribution"
    ):
        native_lock.refresh(committed.root, committed.make_index(), upgrade=False)
    assert (committed.root / "pixi.lock").read_bytes() == (ROOT / "pixi.lock").read_bytes()
    assert not (committed.root / "pixi.lock.partial").exists()


def test_an_index_folder_that_lacks_a_file_or_holds_a_broken_one_is_named(committed: LockedWorkspace) -> None:
    index = committed.make_index()
    plain = index / "noarch" / "repodata.json"
    plain.write_text("{")
    with pytest.raises(NativeLockError, match=r"noarch: repodata.json cannot be read"):
        native_lock.refresh(committed.root, index, upgrade=False)
    plain.rename(index / "noarch" / "repodata.json.xz")
    with pytest.raises(NativeLockError, match=r"noarch/repodata.json.xz cannot be unpacked"):
        native_lock.refresh(committed.root, index, upgrade=False)
    (index / "noarch" / "repodata.json.xz").unlink()
    with pytest.raises(NativeLockError, match=r"noarch: expected repodata.json or repodata.json.xz, found neither"):
        native_lock.refresh(committed.root, index, upgrade=False)


def test_an_old_lock_that_cannot_be_read_is_named_and_an_upgrade_does_without_it(committed: LockedWorkspace) -> None:
    (committed.root / "pixi.lock").write_text("<<<<<<< HEAD\n")
    index = committed.make_index()
    with pytest.raises(NativeLockError, match=r"cannot be understood.*use --upgrade"):
        native_lock.refresh(committed.root, index, upgrade=False)
    native_lock.refresh(committed.root, index, upgrade=True)
    assert (committed.root / "pixi.lock").read_bytes() == (ROOT / "pixi.lock").read_bytes()


def test_a_wrong_manifest_is_refused_before_anything_is_solved(committed: LockedWorkspace) -> None:
    (committed.root / "pixi.toml").write_text(MANIFEST.replace("[feature.cpu]", "[feature.cpus]"))
    with pytest.raises(ManifestError, match="feature 'cpu' is not defined"):
        native_lock.refresh(committed.root, committed.make_index(), upgrade=False)


def test_without_py_rattler_one_line_says_so(committed: LockedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (line,) = native_lock.problems(committed.root)
    assert line.startswith("pixi.lock was not checked: py-rattler is not installed here")
    with pytest.raises(NativeLockError, match="nothing was solved: py-rattler is not installed here"):
        native_lock.refresh(committed.root, committed.make_index(), upgrade=False)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a PATH without pixi; returns the folder on the PATH."""
    for name in ("PIXI_EXE", "PIXI_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def fake_pixi(path: Path, version: str, then: str = "true") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    script = f'#!/bin/sh\nif [ "$1" = --version ]; then echo "pixi {version}"; exit; fi\necho "$*" > asked\n{then}\n'
    path.write_text(script)
    path.chmod(0o755)


@pytest.mark.parametrize(("upgrade", "verb"), [(False, "lock"), (True, "update --no-install")])
def test_with_pixi_it_is_pixi_that_locks(committed: LockedWorkspace, machine: Path, upgrade: bool, verb: str) -> None:
    fake_pixi(machine / "pixi", "0.75.0")
    said = native_lock.refresh(committed.root, None, upgrade)
    assert (committed.root / "asked").read_text() == f"{verb} --manifest-path {committed.root / 'pixi.toml'}\n"
    assert re.search(rf"unchanged: \d+ packages, by `pixi {verb}`", said)


def test_the_pixi_that_the_wrapper_fetched_is_found(committed: LockedWorkspace, machine: Path) -> None:
    fake_pixi(machine / "pixi", "0.70.1")
    fake_pixi(committed.root / ".pixi" / "bin" / "pixi-0.75.0", "0.75.0")
    assert "pixi-0.75.0" in native_lock.refresh(committed.root, None, upgrade=False)


def test_a_pixi_that_fails_is_the_machines_fault(committed: LockedWorkspace, machine: Path) -> None:
    fake_pixi(machine / "pixi", "1.0.0", "exit 4")
    with pytest.raises(NativeLockError, match="`pixi lock` ended with code 4") as refused:
        native_lock.refresh(committed.root, None, upgrade=False)
    assert refused.value.code == 3


def test_without_pixi_and_index_one_line_says_what_to_do(committed: LockedWorkspace, machine: Path) -> None:
    fake_pixi(machine / "pixi", "0.70.1")
    with pytest.raises(NativeLockError) as refused:
        native_lock.refresh(committed.root, None, upgrade=False)
    assert refused.value.code == 2
    assert "pixi 0.75 or newer (found " in str(refused.value)
    assert "'pixi 0.70.1'" in str(refused.value)
    assert str(refused.value).endswith("install pixi, or name the folder with --index")
    assert "\n" not in str(refused.value)
