"""The form of a Python lock: one entry a package, every file by sha256, no index address. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

INPUTS = "# inputs: sha256:"
ENTRY = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9._-]*)(?:==(?P<version>[^ ;\\]+)| @ (?P<address>https://\S+?\.whl))"
    r"(?: ; (?P<marker>[^\\]+?))?(?: \\)?$"
)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Entry:
    """One pinned package: its marker ('' for none), sha256 hashes, and who asks for it (where annotated)."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    via: tuple[str, ...] = ()
    address: str = ""
    """Of a wheel that no index carries: where it is published. '' for all others."""

    @property
    def file(self) -> str:
        """The file name of a wheel that is named by address."""
        return unquote(self.address.rpartition("/")[2])

    def text(self) -> str:
        """The entry as the installer reads it."""
        marker = f" ; {self.marker}" if self.marker else ""
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(self.hashes))
        pinned = f"{self.name} @ {self.address}" if self.address else f"{self.name}=={self.version}"
        return f"{pinned}{marker}{hashes}\n"


def parse(text: str) -> list[Entry]:
    """The entries of a lock; a line that is neither comment, entry nor hash is an error."""
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := ENTRY.match(stripped):
            address = match["address"] or ""
            version = match["version"] or unquote(address.rpartition("/")[2]).split("-")[1]
            entries.append(Entry(match["name"], version, match["marker"] or "", (), address=address))
        elif digest := HASH.match(stripped):
            entries[-1] = Entry(**{**vars(entries[-1]), "hashes": (*entries[-1].hashes, digest[1])})
        elif stripped.startswith("# via") and line.startswith(" "):
            via = tuple(part.strip() for part in stripped.removeprefix("# via").split(",") if part.strip())
            entries[-1] = Entry(**{**vars(entries[-1]), "via": via})
        elif stripped and not stripped.startswith("#"):
            raise ValueError(f"line {number} of the lock is not understood: {line!r}")
    return entries


def made_from(text: str) -> str:
    """The hash of the inputs that a lock was made from, as it says itself; '' where it does not."""
    found = re.search(rf"^{INPUTS}([0-9a-f]{{64}})$", text, re.MULTILINE)
    return found[1] if found else ""
