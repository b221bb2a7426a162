"""Draws of names, towns, companies and offences in one language: all invented, a quarter of them held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from tanren.common.task_contract import Split


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in an article. What the article does not say is ""; `act` is what an offender is said to have done."""

    name: str
    age: str = ""
    address: str = ""
    affiliation: str = ""
    position: str = ""
    act: str = ""


@dataclass(frozen=True)
class Words:
    """The lists of one language that persons, places and offences are made of."""

    surnames: Sequence[str]
    given_names: Sequence[str]
    name_order: str  # of "{given}" and "{surname}"
    town_beginnings: Sequence[str]
    town_ends: Sequence[str]
    quarters: Sequence[str]
    quarter_order: str  # of "{quarter}", "{town}" and "{number}"
    address_order: str
    company_beginnings: Sequence[str]
    company_ends: Sequence[str]
    company_order: str
    police: Sequence[str]  # forms with "{stem}"
    positions: Sequence[str]
    acts: Sequence[tuple[str, str]]  # the offence, and what happened


@dataclass(frozen=True)
class Lexicon:
    """Draws from the words of one language that belong to one split."""

    rng: random.Random
    words: Words
    split: Split
    _used: set[str] = field(default_factory=set)
    """Surnames and towns that the article has already: nobody and no place is there twice."""

    def person(self, *, act: str = "", details: float = 0.75) -> Person:
        """Draw somebody; each detail is known with the probability `details`."""
        rng, words = self.rng, self.words
        surname = self._fresh(words.surnames)
        name = words.name_order.format(surname=surname, given=rng.choice(words.given_names))
        known = [rng.random() < details for _ in range(4)]
        return Person(
            name,
            age=str(rng.randint(19, 84)) if known[0] else "",
            address=self.address() if known[1] else "",
            affiliation=self.company() if known[2] else "",
            position=rng.choice(words.positions) if known[3] else "",
            act=act,
        )

    def town(self) -> str:
        """Draw the stem of a town's name that the article does not have yet."""
        return self._fresh([a + b for a, b in product(self.words.town_beginnings, self.words.town_ends)])

    def place(self, town: str) -> str:
        """Draw where in a town something happened: the town, or one of its quarters."""
        return self._in_town(self.words.quarter_order, town) if self.rng.random() < 0.6 else self.town_name(town)

    def town_name(self, town: str) -> str:
        """Return the whole name of a town."""
        return self.words.quarter_order.format(quarter="", town=town, number="").strip(" ,")

    def address(self) -> str:
        """Draw where somebody lives."""
        town = self.town()
        return self._in_town(self.words.address_order, town) if self.rng.random() < 0.5 else self.town_name(town)

    def company(self) -> str:
        """Draw a company."""
        words = self.words
        pairs = [f"{a} {b}" for a, b in product(words.company_beginnings, words.company_ends)]
        beginning, end = self._fresh(pairs).split(" ", 1)
        return words.company_order.format(beginning=beginning, end=end)

    def police(self, town: str) -> str:
        """Draw the name of a town's police department."""
        return self.rng.choice(self.words.police).format(stem=town)

    def offence(self) -> tuple[str, str]:
        """Draw an offence and what happened."""
        return self.rng.choice(self.words.acts)

    def _in_town(self, order: str, town: str) -> str:
        quarter = self.rng.choice(self.words.quarters)
        return order.format(quarter=quarter, town=town, number=self.rng.randint(1, 40))

    def _fresh(self, choices: Sequence[str]) -> str:
        """Draw one of this split's words that the article does not have yet."""
        while True:
            word = self.rng.choice(choices)
            if is_held_out(word) == (self.split == "heldout") and word not in self._used:
                self._used.add(word)
                return word


def is_held_out(word: str) -> bool:
    """Whether a surname, a town's stem or a company belongs to the split `heldout`: a quarter of them, whatever the seed."""
    return hashlib.sha256(f"extraction/{word}".encode()).digest()[0] % 4 == 0
