"""Drawing single values: what a field of a family may hold, and how awkward its strings may be."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .awkward import awkward_text
from .traits import Traits
from .values import Scalar

Leaf = Callable[["Draw"], Scalar]


@dataclass(frozen=True, slots=True)
class Draw:
    """A source of values for one document."""

    rng: random.Random
    traits: Traits
    awkward_share: float  # the share of free texts that are awkward strings, 0 to 1

    @property
    def null_share(self) -> float:
        """The share of fields that are null: none among plain strings, few otherwise."""
        return 0.06 if self.traits.null and self.awkward_share else 0.0


def integer(low: int, high: int) -> Leaf:
    """Return a leaf of whole numbers from low to high, both included."""
    return lambda draw: draw.rng.randint(low, high)


def decimal(low: float, high: float, places: int = 1) -> Leaf:
    """Return a leaf of floats with at most `places` decimals: money with 2, a position with 4."""
    scale = 10**places
    bottom, top = round(low * scale), round(high * scale)
    return lambda draw: draw.rng.randint(bottom, top) / scale


def flag() -> Leaf:
    """Return a leaf of booleans."""
    return lambda draw: draw.rng.random() < 0.5


def one_of(*choices: str) -> Leaf:
    """Return a leaf of the words of an enumeration, which are never awkward."""
    return lambda draw: draw.rng.choice(choices)


def text(*choices: str) -> Leaf:
    """Return a leaf of free text: one of the choices, or an awkward string made from it."""

    def leaf(draw: Draw) -> Scalar:
        plain = draw.rng.choice(choices)
        while not draw.traits.admit(plain):  # "1.4" looks typed; every family's field has choices that do not
            plain = draw.rng.choice(choices)
        if draw.rng.random() >= draw.awkward_share:
            return plain
        return awkward_text(draw.rng, plain, draw.traits)

    return leaf


def phrase(first: tuple[str, ...], second: tuple[str, ...]) -> Leaf:
    """Return a leaf of free text of two parts, such as an adjective and a noun."""
    return lambda draw: text(f"{draw.rng.choice(first)} {draw.rng.choice(second)}")(draw)


def code(letters: str, digits: int) -> Leaf:
    """Return a leaf of identifiers such as `AB-0042`; without letters, digits that begin with 0."""

    def leaf(draw: Draw) -> Scalar:
        number = draw.rng.randrange(10 ** (digits - 1))
        return f"{letters}{number:0{digits}d}"

    return leaf


def date() -> Leaf:
    """Return a leaf of ISO dates from 2015 to 2034."""
    return lambda draw: _date(draw.rng)


def clock() -> Leaf:
    """Return a leaf of times of day such as `07:45`."""
    return lambda draw: f"{draw.rng.randrange(24):02d}:{draw.rng.randrange(0, 60, 5):02d}"


def moment() -> Leaf:
    """Return a leaf of ISO moments in UTC such as `2024-05-01T07:45:00Z`."""
    return lambda draw: f"{_date(draw.rng)}T{draw.rng.randrange(24):02d}:{draw.rng.randrange(60):02d}:00Z"


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2015, 2034)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
