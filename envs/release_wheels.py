"""Wheels that no index carries: the lock names them by their release address; a wheel folder may have them too.

Without a network, or where the release address is closed, the same files can lie in a folder of
PIP_FIND_LINKS / UV_FIND_LINKS (a bundle is one): then the installer is told to take them from there, by
version and the same sha256.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lock_format import Entry, parse

from tanren.common.workspace import sha256_of


class WrongWheel(Exception):  # noqa: N818 (the folder's fault, not the program's)
    """A wheel folder holds another file under the locked wheel's name."""


def find(file: str, hashes: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The locked file in a wheel folder; WrongWheel for another file of that name, which the installer would take."""
    for wheel in (folder / file for folder in folders):
        if wheel.is_file():
            if (found := sha256_of(wheel)) not in hashes:
                fault = f"{wheel} is not the file that was locked (sha256 {found}, expected {' or '.join(hashes)})"
                raise WrongWheel(f"{fault}: take it out of the folder")
            return wheel
    return None


def localise(lock: str, folders: Sequence[Path]) -> tuple[str, list[str]]:
    """The lock with every release wheel that a folder has taken from there; and the names that stay remote."""
    remote: list[str] = []
    for entry in parse(lock):
        if not entry.address:
            continue
        if find(entry.file, entry.hashes, folders):
            lock = lock.replace(entry.text(), Entry(**{**vars(entry), "address": ""}).text())
        else:
            remote.append(entry.file)
    return lock, remote
