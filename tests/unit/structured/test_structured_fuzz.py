"""A tenth of what benchmarks/scoring/fuzz.py does: nothing crashes, hangs or grows."""

from __future__ import annotations

import pytest

from benchmarks.scoring.fuzz import MAX_GROWTH_MIB, fuzz
from tasks.structured.formats import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_random_and_mutated_answers_are_judged_in_time_and_within_memory(name: str) -> None:
    found = fuzz(name, 400, seed=1)
    # Ten times the bound that the benchmark holds: a busy machine is no hang, and quadratic cost still shows.
    assert found["slowest_ms"] < 500, found["slow"]
    assert found["memory_growth_mib"] <= MAX_GROWTH_MIB
