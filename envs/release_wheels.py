"""Wheels that a lock names by the address of their release: taken from a wheel folder where one has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lock_format


def from_folders(lock: str, folders: Sequence[Path]) -> str:
    """The lock with the address of every wheel that lies in a folder replaced by the file's; its hash stays.

    The installer fetches an address even where the index is switched off and a folder has the file.
    """
    for entry in lock_format.parse(lock):
        found = [folder / entry.file for folder in folders if entry.address and (folder / entry.file).is_file()]
        if found:
            lock = lock.replace(f"{entry.name} @ {entry.address}", f"{entry.name} @ {found[0].absolute().as_uri()}")
    return lock
