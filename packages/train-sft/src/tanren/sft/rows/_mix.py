"""How many rows are taken of each source."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tanren.common.errors import UserError
from tanren.sft.rows._draw import largest_remainder
from tanren.sft.rows._sources import RowSource


def asked_of(sources: Sequence[RowSource], counts: Sequence[int], total: int) -> list[int]:
    """Return the rows asked of each source for `total` rows by weight.

    Raises UserError for a source with fewer rows, with the largest total that they all can fill: nothing is ever repeated
    to fill a share.
    """
    weights = [source.weight for source in sources]
    asked = largest_remainder(weights, total)
    short = [place for place, count in enumerate(counts) if asked[place] > count]
    if short:
        told = "\n".join(
            f"  {sources[place].label}: {asked[place]} rows asked, {counts[place]} are there" for place in short
        )
        raise UserError(
            f"data.total = {total} asks for more rows than there are, and rows are not repeated to fill a share:\n{told}\n"
            f"with these weights data.total can be {largest_total(weights, counts)} at most; lower it, change the weights, or "
            'write "all" and no weights'
        )
    return asked


def largest_total(weights: Sequence[float], counts: Sequence[int]) -> int:
    """Return the largest total whose shares the sources can fill."""
    whole = math.fsum(weights)
    # Rounding moves a share by less than one row, so the largest total is near the bound of the scarcest source.
    total = min(math.floor((count + 1) * whole / weight) for weight, count in zip(weights, counts, strict=True))
    while total and any(part > count for part, count in zip(largest_remainder(weights, total), counts, strict=True)):
        total -= 1
    return total


def mix_lines(
    sources: Sequence[RowSource], counts: Sequence[int], asked: Sequence[int] | None, taken: Sequence[int]
) -> list[str]:
    """Return the table of the sources: rows, weight, asked (all of them: no number), taken."""
    width = max(len(source.label) for source in sources)
    lines = [f"  {'source':<{width}} {'rows':>9} {'weight':>7} {'asked':>9} {'taken':>9}"]
    for place, source in enumerate(sources):
        want = "all" if asked is None else str(asked[place])
        lines.append(f"  {source.label:<{width}} {counts[place]:>9} {source.weight:>7g} {want:>9} {taken[place]:>9}")
    return lines
