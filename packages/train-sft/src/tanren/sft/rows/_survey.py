"""The first reading of the sources: a few numbers about every row, from which it is decided what is taken."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.sft.rows._rules import Known, Rule
from tanren.sft.rows._sources import RowSource
from tanren.sft.rows._split import prompt_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAY_EVERY = 3.0  # seconds between two lines that say how far a long reading is


@dataclass(frozen=True)
class Survey:
    """What is known of the rows, those of all sources one after the other."""

    counts: tuple[int, ...]
    """Rows of each source."""
    keys: array[int]
    """The key of each row's prompt; empty unless it is needed."""
    match: array[int]
    """Which set of rules matches each row, a place in `matches`; empty without rules."""
    matches: tuple[tuple[bool, ...], ...]
    """The sets of rules that occur: for each rule whether it is one of them."""
    known: Known

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(self.counts)

    def source_of(self) -> NDArray[np.int64]:
        """Return the source of each row."""
        import numpy as np

        return np.repeat(np.arange(len(self.counts)), self.counts)

    def match_of(self) -> NDArray[np.int64]:
        """Return the set of rules of each row."""
        import numpy as np

        return np.array(self.match, dtype=np.int64) if self.match else np.zeros(self.rows, dtype=np.int64)


def survey(sources: Sequence[RowSource], rules: Sequence[Rule], *, prompts: bool) -> Survey:
    """Read every row of every source once, and say how far that is. Raises UserError for a source without a row."""
    keys, match, counts = array("Q"), array("H"), []
    places: dict[tuple[bool, ...], int] = {}
    known = Known(rules)
    for source in sources:
        count = 0
        for row in _told(source):
            count += 1
            if prompts:
                keys.append(prompt_key(row))
            if rules:
                known.note(row)
                found = tuple(rule.matches(row.metadata) for rule in rules)
                match.append(places.setdefault(found, len(places)))
        if not count:
            raise UserError(f"the source {source.label} holds no row; remove it, or check its split")
        counts.append(count)
    return Survey(tuple(counts), keys, match, tuple(places) or ((),), known)


def _told(source: RowSource) -> Iterator[Row]:
    """Yield a source's rows, with a line every few seconds: nothing else has been printed when a run reads its sources."""
    begun = said = time.perf_counter()
    if source.hub is not None:
        _say(f"load {source.label} from the hub ...", begun)
    for number, row in enumerate(source.read(), start=1):
        yield row
        if number % 1000 == 0 and time.perf_counter() - said > SAY_EVERY:
            _say(f"read {source.label}: {number:,} rows so far", begun)
            said = time.perf_counter()


def _say(text: str, begun: float) -> None:
    from tanren.common.console import Console  # imported where it is needed: a dry run answers at once

    Console(started=begun).line(text)
