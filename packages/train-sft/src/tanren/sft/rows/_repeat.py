"""How often each row comes: by upsampling rules and by the factors of a phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tanren.common.errors import UserError
from tanren.sft.rows._draw import round_together, shuffled

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = np.iinfo(np.uint16).max


def times_of(groups: NDArray[np.int64], weights: Sequence[float], names: Sequence[str], key: str) -> NDArray[np.uint16]:
    """Return how often each row comes, (rows,).

    `groups` says for each row to which group it belongs; every row of a group has the group's weight. Each comes
    floor(weight) times. Of the fractions, so many rows as they sum up to are drawn without replacement by `key`, so that
    the number of rows is exact.
    """
    if max(weights) > MOST:
        raise UserError(f"the factor {max(weights):g} is too large: a row comes at most {MOST} times in one pass")
    whole = np.array([math.floor(weight) for weight in weights], dtype=np.uint16)
    times = whole[groups]
    sizes = np.bincount(groups, minlength=len(weights)).tolist()
    more = round_together([(weight % 1) * size for weight, size in zip(weights, sizes, strict=True)])
    for group, drawn in enumerate(more):
        if drawn:
            members = np.flatnonzero(groups == group)
            times[members[np.array(shuffled(len(members), f"{key}-{names[group]}")[:drawn])]] += 1
    return times
