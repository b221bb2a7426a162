"""What is proven, and what a proof answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """A relative error, and the largest that is no fault."""

    what: str
    error: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether the error is within its limit; NaN never is."""
        return self.error <= self.limit


@dataclass(frozen=True)
class ProbeResult:
    """What a proof measured in the child."""

    found: str
    """What ran: versions, shapes, precision."""
    first_seconds: float | None = None
    """Of the first run of a kernel, with what is compiled for it; None where there is none to run again."""
    seconds: float | None = None
    """Of one run after that."""
    comparisons: tuple[Comparison, ...] = ()
    names: tuple[str, ...] = ()
    """What is to be proven next, one by one."""
    numbers: Mapping[str, float | str] = field(default_factory=dict)
    """What others want to know of it."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProbeResult:
        """Return the result that was sent as `dataclasses.asdict`."""
        comparisons = tuple(Comparison(**one) for one in values["comparisons"])
        return cls(**{**values, "comparisons": comparisons, "names": tuple(values["names"])})


Arguments = Mapping[str, float | str]
"""Of a proof, as JSON."""


@dataclass(frozen=True)
class Probe:
    """A proof that is asked of a child."""

    what: str
    function: str
    """'module:name' of a function that returns a `ProbeResult` and raises where what it proves does not work."""
    fix: str
    """What to do where it fails and the failure is not a known one."""
    arguments: Arguments = field(default_factory=dict)
    limit: float = 180.0
    """s, of which compiling the slowest attention kernel takes 15 on a free machine."""
    for_each: Callable[[str], Probe] | None = None
    """The proof of each of the names in the result."""
    gate: bool = False
    """Whether the rest of its tier is pointless where it fails."""
