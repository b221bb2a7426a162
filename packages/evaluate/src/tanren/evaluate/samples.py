"""Several samples of one task: pass@k, and the majority's answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tanren.common.task_contract import Parsed, Row

VoteKey = Callable[[Parsed, Row], str | None]
"""What a pack may define as `vote_key(parsed, row)`: answers of one text are the same in a vote; None does not vote."""

# Up to here a float holds every whole number.
_EXACT = 2**53


def pass_at(k: int, samples: int, correct: int) -> float:
    """Return the chance that of `k` samples at least one is correct, without bias, from `samples` of which `correct` are.

    1 - C(n - c, k) / C(n, k): arXiv:2107.03374, equation 1.
    """
    assert 1 <= k <= samples
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def sizes(samples: int) -> list[int]:
    """Return the k of pass@k that are reported of so many samples: powers of two, and all."""
    return sorted({2**power for power in range(samples.bit_length())} | {samples})


def by_value(parsed: Parsed, row: Row) -> str | None:
    """Compare answers for the vote by their parsed value; what does not parse does not vote."""
    del row
    return _canonical(parsed.value) if parsed.valid else None


def majority(parsed: Sequence[Parsed], row: Row, key: VoteKey) -> Parsed:
    """Return the answer that most samples give; of those that tie the one that came first; the first sample's if none votes."""
    votes: dict[str, list[Parsed]] = {}
    for one in parsed:
        named = key(one, row)
        if named is not None:
            votes.setdefault(named, []).append(one)
    most = max(map(len, votes.values()), default=0)
    return next((same[0] for same in votes.values() if len(same) == most), parsed[0])


def _canonical(value: Any) -> str:
    """Write a value so that equal ones are written alike: keys in order, 1 as 1.0; a parser may give keys of any type."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{_canonical(key)}: {_canonical(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_canonical, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _EXACT:
        return repr(float(value))
    return repr(value)
