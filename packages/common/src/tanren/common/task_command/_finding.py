"""What one check of a pack came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed, and what was looked at, or where it failed and what was expected."""

    check: str
    passed: bool
    detail: str


class Broken(Exception):  # noqa: N818 (a finding, not an error of ours)
    """The contract is broken: where, what was found, what was expected."""
