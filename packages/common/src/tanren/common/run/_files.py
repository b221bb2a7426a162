"""Writes that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


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
