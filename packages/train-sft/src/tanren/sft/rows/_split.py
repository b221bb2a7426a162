"""The split of rows by prompt: what is asked in validation was never asked in training."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.sft.rows._draw import shuffled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def prompt_key(row: Row) -> int:
    """Return 64 bits of a hash of everything before the answer: the turns, or the text before the first learned segment."""
    digest = hashlib.blake2b(digest_size=8)
    for message in row.prompt:
        digest.update(f"{message.role}\0{message.content}\0".encode())
    for segment in row.segments:
        if segment.learned:
            break
        digest.update(segment.text.encode())
    return int.from_bytes(digest.digest(), "little")


def split_by_prompt(keys: NDArray[np.uint64], share: float, seed: int) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which rows are kept for validation, and a report; `keys` are the rows' prompt keys.

    Whole groups are taken, in an order that the seed decides, as long as they fit into `share` of the rows. So the share
    is reached from below, and never with half a group. Raises UserError where there are no two prompts to part.
    """
    import numpy as np

    _, group_of, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    wanted = round(share * len(keys))
    chosen = np.zeros(len(sizes), dtype=bool)
    left = wanted
    for group in shuffled(len(sizes), f"{seed}-validation"):
        if sizes[group] <= left:
            chosen[group] = True
            left -= int(sizes[group])
        if not left:
            break
    if not chosen.any() or chosen.all():
        raise UserError(
            f"data.validation_share = {share:g} cannot be kept: {len(keys)} rows have {len(sizes)} different prompts (the "
            f"smallest group has {int(sizes.min())} rows), and rows of one prompt stay on one side; expected some prompts on both "
            "sides: change it, or add rows"
        )
    held = chosen[group_of]
    rows, groups = int(held.sum()), int(chosen.sum())
    reached = 100 * rows / len(keys)
    return held, [
        f"split by prompt: {len(keys) - rows} rows ({len(sizes) - groups} prompts) to train on, {rows} rows ({groups} prompts) "
        f"for validation: {reached:.2f} % of the rows, {100 * share:g} % asked"
    ]
