"""The Python locks: complete, hashed, bound to no index, and meeting every declared dependency."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import lock
import pytest
from lock import Entry

from .conftest import ROOT

LOCKS = [*sorted((ROOT / "envs").glob("*/*.lock")), ROOT / "envs" / "uv.lock"]
# Hosts of package indexes, put together here so that this file does not hold them.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_has_its_hashes_and_no_index_is_named(path: Path) -> None:
    text = path.read_text()
    entries = lock.parse(text)
    assert entries
    assert all(entry.hashes for entry in entries)
    assert "://" not in text
    assert "index-url" not in text


def test_the_locks_fit_their_inputs_and_meet_every_declared_dependency() -> None:
    assert lock.problems() == []


def test_a_dependency_that_the_lock_does_not_meet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "declared", lambda: {"ours": ["ours-too", "numpy>=3", "nowhere"], "ours-too": []})
    found = lock.unsatisfied([Entry("numpy", "2.4.6", "python_full_version < '3.12'", ("0" * 64,))])
    assert found == [
        "ours needs numpy>=3: requirements.lock has 2.4.6",
        "ours needs nowhere: not in requirements.lock",
    ]


def test_the_cuda_runtime_is_split_off_and_nothing_of_it_stays_in_the_base() -> None:
    base = {entry.name for entry in lock.parse((lock.DEFAULT / "requirements.lock").read_text())}
    runtime = {entry.name for entry in lock.parse((lock.DEFAULT / "cuda-runtime.lock").read_text())}
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "triton"} <= runtime
    assert not base & runtime
    assert not [name for name in base if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert {"torch", "transformers", "trl", "peft", "pytest", "ruff", "mypy", "hatchling"} <= base


def test_a_cuda_package_that_others_ask_for_stops_the_split() -> None:
    entries = [Entry("nvidia-x", "1", "", ("0" * 64,), via=("torch",)), Entry("torch", "2", "", ("0" * 64,))]
    assert lock.split_cuda(entries) == ([entries[1]], [entries[0]])
    with pytest.raises(ValueError, match="nvidia-x is asked for by \\['other'\\]"):
        lock.split_cuda([Entry("nvidia-x", "1", "", ("0" * 64,), via=("torch", "other"))])


def test_a_lock_reads_back_as_it_was_written() -> None:
    entry = Entry("a-b", "1.0", "sys_platform == 'linux'", ("a" * 64, "b" * 64))
    assert lock.parse(entry.text()) == [entry]
    with pytest.raises(ValueError, match="line 1"):
        lock.parse("something else")


def test_no_file_of_the_repository_names_a_package_index() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile("|".join(map(re.escape, HOSTS)).encode())
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(paths) > 20
    named = [str(path) for path in paths if path.is_file() and pattern.search(path.read_bytes())]
    assert named == []
