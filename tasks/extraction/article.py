"""What a writer of articles gives, and what it needs to know."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .lexicon import Lexicon, Person

Length = Literal["short", "medium", "long"]

BESIDE: dict[Length, tuple[int, int]] = {"short": (0, 1), "medium": (2, 3), "long": (5, 7)}
"""How many sentences stand beside the news, by length."""


@dataclass(frozen=True, slots=True)
class Article:
    """An article and what is to be extracted from it; no offender: nothing is."""

    text: str
    story: str
    offenders: tuple[Person, ...] = ()
    locations: tuple[str, ...] = ()
    police: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """The facts of an offence."""

    offenders: tuple[Person, ...]
    happened: str
    locations: tuple[str, ...]
    police: str
    day: str


Story = Callable[[Lexicon], str]
"""Writes news in which nobody is to be found: one or two sentences."""


def draw_case(lexicon: Lexicon, day: str) -> Case:
    """Draw an offence: one offender in most cases, at most three; one place in most cases."""
    rng = lexicon.rng
    count = rng.choices((1, 2, 3), weights=(7, 2, 1))[0]
    act, happened = lexicon.offence()
    first = lexicon.town()
    places = [lexicon.place(first)]
    if rng.random() < 0.2:
        places.append(lexicon.place(lexicon.town()))
    offenders = tuple(lexicon.person(act=act) for _ in range(count))
    return Case(offenders, happened, tuple(places), lexicon.police(first), day)


def beside(rng: random.Random, sentences: Sequence[Callable[[], str]], length: Length) -> list[str]:
    """Draw sentences that stand beside the news, each at most once."""
    chosen = rng.sample(range(len(sentences)), min(rng.randint(*BESIDE[length]), len(sentences)))
    return [sentences[index]() for index in chosen]
