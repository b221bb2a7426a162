"""The doctor on disks: what several folders take of one is added up, and files are counted too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Finding, Subject, Verdict
from tanren.common.doctor._disk import Room, check_disk, places, read_room

Make = Callable[[str], Subject]
ROOM = Room(1, "/", 500.0, 1000.0, 10_000_000)


def judged(subject: Subject, room: Room) -> Finding:
    """Return the row of a machine with one disk."""
    [finding] = check_disk(subject, lambda _: room)
    return finding


@pytest.fixture
def installed(gpu_subject: Make) -> Subject:
    return gpu_subject("train")


@pytest.fixture
def absent(gpu_subject: Make, tmp_path: Path) -> Subject:
    variables = {"UV_CACHE_DIR": str(tmp_path), "RATTLER_CACHE_DIR": str(tmp_path)}
    return replace(gpu_subject("train"), runs=False, variables=variables)


@pytest.mark.parametrize(("free", "verdict"), [(20.0, Verdict.OK), (5.0, Verdict.WARNING), (0.5, Verdict.REFUSED)])
def test_an_installed_environment_asks_for_room_for_runs_and_what_is_compiled(
    installed: Subject, free: float, verdict: Verdict
) -> None:
    finding = judged(installed, replace(ROOM, free_gib=free))
    assert finding.verdict is verdict
    assert finding.found == f"{free} of 1000.0 GiB free, for: runs, Hugging Face cache, temporary files"


@pytest.mark.parametrize(("free", "verdict"), [(30.0, Verdict.OK), (20.0, Verdict.WARNING), (12.0, Verdict.REFUSED)])
def test_one_that_is_not_installed_yet_asks_for_its_packages_too(
    absent: Subject, free: float, verdict: Verdict
) -> None:
    finding = judged(absent, replace(ROOM, free_gib=free))
    assert finding.verdict is verdict
    assert "environment (12 GiB)" in finding.found


@pytest.mark.parametrize(
    ("files", "verdict"), [(None, Verdict.OK), (50_000, Verdict.OK), (9_000, Verdict.WARNING), (500, Verdict.REFUSED)]
)
def test_a_disk_without_room_for_more_files_is_told_whatever_its_bytes(
    installed: Subject, files: int | None, verdict: Verdict
) -> None:
    finding = judged(installed, replace(ROOM, free_files=files))
    assert finding.verdict is verdict
    assert ("more files" in finding.found) == (verdict is not Verdict.OK)


def test_the_environments_own_files_are_counted(absent: Subject) -> None:
    assert judged(absent, replace(ROOM, free_files=100_000)).verdict is Verdict.REFUSED


def test_a_folder_that_cannot_be_written_is_refused_but_for_the_models_cache(installed: Subject) -> None:
    assert judged(installed, replace(ROOM, writable=False)).verdict is Verdict.REFUSED
    by_name = {place.name: place for place in places(installed)}
    assert not by_name["Hugging Face cache"].must_write


def test_each_disk_has_its_own_row_and_the_fix_names_only_what_lies_on_it(installed: Subject, tmp_path: Path) -> None:
    variables = {**installed.variables, "HF_HOME": str(tmp_path / "models")}

    def room(path: Path) -> Room:
        return (
            replace(ROOM, device=2, mount="/models", free_gib=1.0) if path.is_relative_to(tmp_path / "models") else ROOM
        )

    subject = replace(installed, root=tmp_path, variables=variables)
    own, models = check_disk(subject, room)
    assert (own.what, own.verdict) == ("disk /", Verdict.OK)
    assert (models.what, models.verdict) == ("disk /models", Verdict.WARNING)
    assert models.fix.endswith("Hugging Face cache by HF_HOME")


def test_the_room_of_a_folder_that_is_not_made_yet_is_its_disks(tmp_path: Path) -> None:
    room = read_room(tmp_path / "not" / "made" / "yet")
    assert room.device == tmp_path.stat().st_dev
    assert Path(room.mount).is_mount()
    assert 0 < room.free_gib <= room.size_gib
    assert room.writable
