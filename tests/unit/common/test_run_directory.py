"""Run directories: created once, never overwritten, found again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory, create_run, open_run, refuse_existing


def _run(path: Path, steps: tuple[int, ...] = (5,), status: str | None = None) -> RunDirectory:
    run = RunDirectory(path)
    for step in steps:
        run.checkpoint(step).mkdir(parents=True)
    path.mkdir(parents=True, exist_ok=True)
    run.config.write_text("seed = 1\n", encoding="utf-8")
    if status is not None:
        run.write_json(run.summary, {"status": status})
    return run


def test_a_run_directory_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert create_run(folder, tmp_path, "x").path == folder
    (folder / "kept").write_text("kept", encoding="utf-8")
    with pytest.raises(UserError, match="a run is never overwritten"):
        create_run(folder, tmp_path, "x")
    with pytest.raises(UserError, match="--resume"):
        refuse_existing(folder)
    refuse_existing(None)
    assert (folder / "kept").read_text(encoding="utf-8") == "kept"


def test_runs_that_start_in_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(lambda _: create_run(None, tmp_path / "runs", "x"), range(40)))
    assert len({run.path for run in runs}) == 40
    assert all(run.path.is_dir() for run in runs)


def test_a_run_directory_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        create_run(None, tmp_path / "file" / "runs", "x")


def test_latest_is_the_newest_run_of_this_recipe_that_is_not_finished(tmp_path: Path) -> None:
    import os

    for age, (name, status) in enumerate(
        [
            ("x-20250101-000000", None),
            ("x-20250101-000001", "interrupted"),
            ("x-20250101-000002", "done"),
            ("x-long-20250101-000003", None),
            ("y-20250101-000004", None),
        ]
    ):
        _run(tmp_path / name, status=status)
        os.utime(tmp_path / name, (age, age))
    assert open_run("latest", tmp_path, "x").path.name == "x-20250101-000001"
    assert open_run("latest", tmp_path, "x-long").path.name == "x-long-20250101-000003"


def test_a_second_run_of_one_second_is_found_too_and_a_name_is_taken_literally(tmp_path: Path) -> None:
    _run(tmp_path / "a[1]-20250101-000000-2")
    assert open_run("latest", tmp_path, "a[1]").path.name == "a[1]-20250101-000000-2"


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("latest", "nothing to resume for 'x' in"),
        ("nowhere", "no run there"),
        ("finished", "this run is finished"),
        ("young", "has no checkpoint yet"),
    ],
)
def test_what_cannot_be_resumed_is_told(tmp_path: Path, which: str, told: str) -> None:
    _run(tmp_path / "finished", status="done")
    _run(tmp_path / "young", steps=())
    with pytest.raises(UserError) as caught:
        open_run(which if which == "latest" else str(tmp_path / which), tmp_path, "x")
    assert told in str(caught.value)


def test_latest_says_when_all_runs_are_finished(tmp_path: Path) -> None:
    _run(tmp_path / "x-20250101-000000", status="done")
    with pytest.raises(UserError, match="1 runs of it, all finished"):
        open_run("latest", tmp_path, "x")


def test_checkpoints_are_sorted_as_numbers_and_the_newest_are_kept(tmp_path: Path) -> None:
    run = _run(tmp_path / "x", steps=(9, 100, 10, 99))
    (run.checkpoints / ".partial").mkdir()
    (run.checkpoints / "step-old").mkdir()
    assert run.checkpoint_steps() == [9, 10, 99, 100]
    run.keep_checkpoints(2)
    assert run.checkpoint_steps() == [99, 100]
    assert (run.checkpoints / "step-old").is_dir()
    run.keep_checkpoints(5)
    assert run.checkpoint_steps() == [99, 100]


def test_json_is_written_whole_and_read_back(tmp_path: Path) -> None:
    run = _run(tmp_path / "x")
    run.write_json(run.summary, {"path": Path("a"), "text": "鍛錬"})
    assert json.loads(run.summary.read_text(encoding="utf-8")) == {"path": "a", "text": "鍛錬"}
    assert run.read_config() == {"seed": 1}
