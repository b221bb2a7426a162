"""What the report says of the metrics that a pack adds."""

from __future__ import annotations

from typing import Any

from tanren.evaluate.evaluated import Evaluated
from tanren.evaluate.measures import (
    MEASURES,
    MISTAKES,
    answers_of,
    difference_cell,
    measure_cell,
    pack_differences,
    pack_scores,
)


def measures_section(evaluated: Evaluated) -> dict[str, Any]:
    """Return what the report shows: metrics and mistakes of each candidate, and the differences from the first one."""
    pack = evaluated.pack
    answers = {name: answers_of(judged) for name, judged in evaluated.candidates.items()}
    own = {name: pack_scores(pack, found) for name, found in answers.items()}
    first, *others = answers
    mistakes = {name: one[MISTAKES] for name, one in own.items() if MISTAKES in one}
    return {
        "measures": {name: one[MEASURES] for name, one in own.items() if MEASURES in one},
        "measures_differences": {name: pack_differences(pack, answers[first], answers[name]) for name in others},
        "mistakes": mistakes,
        "mistake_kinds": list(dict.fromkeys(kind for one in mistakes.values() for kind in one)),
        "measure_cell": measure_cell,
        "difference_cell": difference_cell,
    }
