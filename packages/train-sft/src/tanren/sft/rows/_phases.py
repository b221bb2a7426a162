"""The phases of a curriculum: which sources each has, and how many rows of it are trained on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from tanren.common.errors import UserError
from tanren.sft.config import PhaseConfig
from tanren.sft.rows._draw import largest_remainder


def factors_by_phase(phases: Sequence[PhaseConfig], labels: Sequence[str]) -> list[list[float]]:
    """Return for each phase the factor of each source, 0 for one that it has not; without phases one that has all.

    Raises UserError for a name that is no source, and for a source that no phase names.
    """
    if not phases:
        return [[1.0] * len(labels)]
    found = [_factors(place, phase) for place, phase in enumerate(phases)]
    for place, factors in enumerate(found):
        for name in factors:
            if name not in labels:
                near = difflib.get_close_matches(name, labels, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the sources are {', '.join(labels)}"
                raise UserError(f"data.phases[{place}].sources: {name!r} is no source: {hint}")
    unnamed = [label for label in labels if not any(label in factors for factors in found)]
    if unnamed:
        raise UserError(
            f"data.phases: no phase names {', '.join(unnamed)}, so it would never be trained on; name it in a phase, or remove it"
        )
    return [[factors.get(label, 0.0) for label in labels] for factors in found]


def _factors(place: int, phase: PhaseConfig) -> Mapping[str, float]:
    where = f"data.phases[{place}].sources"
    factors = phase.sources if isinstance(phase.sources, dict) else dict.fromkeys(phase.sources, 1.0)
    if not factors:
        raise UserError(f"{where}: found no name, expected one source at least")
    if isinstance(phase.sources, list) and len(factors) != len(phase.sources):
        raise UserError(f"{where}: a source is named twice; for rows that come twice write a table, {{NAME = 2}}")
    wrong = [name for name, factor in factors.items() if not 0 < factor < math.inf]
    if wrong:
        raise UserError(f"{where}: the factor of {wrong[0]} is {factors[wrong[0]]}, expected a number above 0")
    if len(set(factors.values())) == 1 and next(iter(factors.values())) > 1:
        raise UserError(
            f"{where}: all sources have the factor {next(iter(factors.values())):g}, which is the same as more passes; write "
            f"data.phases[{place}].epochs"
        )
    return factors


def rows_by_phase(
    phases: Sequence[PhaseConfig], sizes: Sequence[int], *, epochs: float, max_steps: int, rows_per_step: int
) -> list[int]:
    """Return how many rows each phase trains on, each pass's counted; `sizes` are the rows of one pass of each."""
    if not phases:
        return [max_steps * rows_per_step or max(1, round(size * epochs)) for size in sizes]
    if max_steps:
        steps = largest_remainder([phase.share or 0.0 for phase in phases], max_steps)
        return [step * rows_per_step for step in steps]
    return [max(1, round(size * (phase.epochs or 1.0))) for phase, size in zip(phases, sizes, strict=True)]
