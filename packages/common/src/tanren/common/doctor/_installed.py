"""The distributions in a folder of packages: name, version, and what each asks for. Read once, from the heads alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Installed:
    """One distribution."""

    name: str
    """In its normal form; 'unreadable' where it does not say."""
    version: str
    requires: tuple[str, ...]
    """Lines of Requires-Dist."""


def read_distributions(folders: Sequence[Path]) -> list[Installed]:
    """Return every distribution in the folders; one whose metadata is damaged is among them."""
    found: list[Installed] = []
    for distribution in distributions(path=[str(folder) for folder in folders]):
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        head = HeaderParser().parsestr(text.partition("\n\n")[0])  # what follows is the project's page, often long
        name, version = head["Name"], head["Version"]
        requires = tuple(head.get_all("Requires-Dist", []))
        found.append(Installed(canonicalize_name(name or "unreadable"), version or "0", requires))
    return found
