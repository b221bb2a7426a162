"""The reward of a task pack, as a column of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack

PACK = "pack"


@dataclass(frozen=True)
class Scored:
    """What became of completions, each list in their order."""

    total: list[float | None]
    """What counts; None: the completion is excluded."""
    columns: dict[str, list[float | None]]
    """What each reward gave, by its name."""
    excluded_why: list[str | None]


class PackReward:
    """Calls a pack's `reward` and checks what it gives."""

    def __init__(self, pack: TaskPack) -> None:
        """Judge with a pack."""
        self._pack = pack

    def __call__(self, completions: Sequence[str], rows: Sequence[Row]) -> Scored:
        """Return the rewards. Raises UserError for a wrong number of them, and for one that is no number."""
        found = self._pack.module.reward(completions, rows)
        name = self._pack.description.name
        if len(found) != len(completions):
            raise UserError(
                f"task pack {name}: reward() gave {len(found)} values for {len(completions)} completions; it gives one for each"
            )
        for reward, row in zip(found, rows, strict=True):
            if reward is not None and not (isinstance(reward, int | float) and math.isfinite(reward)):
                raise UserError(
                    f"task pack {name}: reward() gave {reward!r} for a completion of row {row.id}; expected a number, or None for "
                    "a completion that cannot be judged"
                )
        total = [None if reward is None else float(reward) for reward in found]
        return Scored(
            total, {PACK: total}, [None if reward is not None else "the pack gave no reward" for reward in total]
        )

    def close(self) -> None:
        """Do nothing."""
