"""Writes that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tanren.common.errors import MachineError, says_disk_full


def write_atomically(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that a reader sees the old bytes or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(target: Path) -> Iterator[Path]:
    """Give a folder to write to, and rename it to `target` at the end: it is whole or not there.

    Raises MachineError if the disk is full; what was written aside is removed then.
    """
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(target)
    except Exception as error:
        free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else 0
        if free < 2**20 or says_disk_full(error):  # torch tells a full disk from nothing else
            raise MachineError(
                f"the disk is full: {target} cannot be written ({error}; {free // 2**20} MiB are free); "
                "free some space, then continue with --resume; what was written before is whole"
            ) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def append_line(file: IO[bytes], record: Mapping[str, Any]) -> None:
    """Append one JSON line with a single write, so that a kill cannot leave two half lines in a row."""
    file.write(json.dumps(record, ensure_ascii=False, allow_nan=True).encode() + b"\n")
    file.flush()


def mend_last_line(path: Path) -> None:
    """Cut off a last line that a killed process left without its end."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)
