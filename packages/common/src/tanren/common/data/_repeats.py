"""Which prompts come again, and what of that a split into rows would leak into validation."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from tanren.common.data._records import Fault
from tanren.common.data._show import head
from tanren.common.task_contract import Row

LARGEST = 10
"""So many of the largest groups are listed."""


@dataclass(slots=True)
class Group:
    """The rows with one prompt."""

    first: str
    """The id of its first row."""
    rows: int = 0
    answers: int = 0
    """How many different ones."""
    sources: frozenset[int] = frozenset()
    prompt: str = ""
    """The beginning of its last turn; kept of repeated prompts alone."""


@dataclass
class Repeats:
    """The rows of all sources by their prompts. Memory grows with the number of rows (about 0.3 KB each), not with their length."""

    names: Sequence[str]
    groups: dict[int, Group] = field(default_factory=dict)
    of_row: list[int] = field(default_factory=list)
    """The prompt's hash of each row, in order."""
    by_source: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _different: set[int] = field(default_factory=set)
    """Hashes of prompt and answer."""

    def take(self, source: int, rows: Iterable[Row | Fault]) -> None:
        """Count the rows of a source."""
        before = self.rows
        for row in rows:
            if isinstance(row, Fault):
                self.faults.append(row)
                continue
            key = prompt_key(row)
            group = self.groups.setdefault(key, Group(row.id))
            group.rows += 1
            if source not in group.sources:
                group.sources |= {source}
            whole = _hash((key, _answer(row)))
            if whole not in self._different:
                self._different.add(whole)
                group.answers += 1
            if group.rows == 2:
                group.prompt = head(row.prompt[-1].content if row.prompt else row.segments[0].text)
            self.of_row.append(key)
        self.by_source.append(self.rows - before)

    @property
    def rows(self) -> int:
        """The rows that were read."""
        return len(self.of_row)

    def sizes(self) -> list[int]:
        """Return the number of rows of each prompt."""
        return [group.rows for group in self.groups.values()]

    def largest(self) -> list[Group]:
        """Return the largest groups, those with one row left out."""
        repeated = (group for group in self.groups.values() if group.rows > 1)
        return sorted(repeated, key=lambda group: -group.rows)[:LARGEST]

    def conflicts(self) -> list[Group]:
        """Return the groups with several answers."""
        return [group for group in self.groups.values() if group.answers > 1]

    def as_json(self, share: float, seed: int) -> dict[str, Any]:
        """Return all counts, and the leak of a split of that share by rows."""
        conflicts = self.conflicts()
        held = validation_size(self.rows, share)
        return {
            "rows": self.rows,
            "unread": sum(max(1, fault.rows) for fault in self.faults),
            "prompts": len(self.groups),
            "repeated_prompts": self.rows - len(self.groups),
            "rows_of_repeated_prompts": sum(size for size in self.sizes() if size > 1),
            "repeated_rows": self.rows - len(self._different),
            "conflicting_prompts": len(conflicts),
            "rows_of_conflicting_prompts": sum(group.rows for group in conflicts),
            "largest_groups": [
                {"rows": one.rows, "answers": one.answers, "first_row": one.first, "prompt": one.prompt}
                for one in self.largest()
            ],
            "sources": dict(zip(self.names, self.by_source, strict=True)),
            "prompts_in_common": self._in_common(),
            "leak": {
                "validation_share": share,
                "validation_rows": held,
                "seed": seed,
                "expected_share": expected_leak(self.sizes(), held),
                "share_of_seed": seeded_leak(self.of_row, held, seed),
                "share_by_prompt_group": 0.0,
            },
            "errors": [{"row": fault.place, "message": fault.message} for fault in self.faults],
        }

    def _in_common(self) -> list[dict[str, Any]]:
        shared = Counter(pair for group in self.groups.values() for pair in combinations(sorted(group.sources), 2))
        return [
            {"sources": [self.names[first], self.names[second]], "prompts": count}
            for (first, second), count in shared.items()
        ]


def validation_size(rows: int, share: float) -> int:
    """Return how many rows a split holds out: at least one."""
    return max(1, round(rows * share)) if rows else 0


def expected_leak(sizes: Sequence[int], held: int) -> float:
    """Return the share of validation rows whose prompt is trained on too, expected over all splits into rows.

    A row that is held out does not leak only if the others of its group are held out with it. Of the n - 1 other rows,
    held - 1 are; that they are among them, drawn without replacement: the product of (held - i) / (n - i) for i = 1 to size - 1.
    """
    rows = sum(sizes)
    leaking = 0.0
    for size, groups in Counter(sizes).items():
        together = 1.0
        for drawn in range(1, size):
            together *= max(0, held - drawn) / (rows - drawn)
        leaking += groups * size * (1 - together)
    return leaking / rows if rows else 0.0


def seeded_leak(prompts: Sequence[int], held: int, seed: int) -> float:
    """Return the same share for the one split that this seed draws."""
    validation = set(random.Random(seed).sample(range(len(prompts)), held))  # noqa: S311 (no secret)
    trained = {prompt for index, prompt in enumerate(prompts) if index not in validation}
    return sum(prompts[index] in trained for index in validation) / held if held else 0.0


def prompt_key(row: Row) -> int:
    """Return a hash of everything before a row's answer: turns, or the segments that are only read."""
    if row.segments:
        return _hash([segment.text for segment in row.segments if not segment.learned])
    return _hash([(turn.role, turn.content) for turn in row.prompt])


def _answer(row: Row) -> object:
    return [(segment.text, segment.learned) for segment in row.segments] or row.reference


def _hash(value: object) -> int:
    """64 bits: among a million different texts two are taken for one with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest())
