"""In which order prompts are drawn: each once until all have been seen, then anew in another order."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any


class PromptOrder:
    """Draws from `count` prompts by their numbers, exactly once an epoch each."""

    def __init__(self, count: int, seed: int, difficulties: Sequence[float] = ()) -> None:
        """Begin with the first epoch; with the prompts' `difficulties`, it goes from the lowest to the highest."""
        self._count, self._seed, self._difficulties = count, seed, difficulties
        self._read = 0
        self._waiting: list[int] = []
        """Prompts that came again over the border of two epochs, while they were in hand: they come next."""
        self._epoch, self._order = -1, list(range(count))

    @property
    def drawn(self) -> int:
        """How many prompts have been drawn."""
        return self._read - len(self._waiting)

    def take(self, number: int, besides: Collection[int] = ()) -> list[int]:
        """Return the next `number` prompts, all different and none of those in hand already, `besides`."""
        assert number + len(besides) <= self._count, "a step takes no prompt twice"
        found: list[int] = []
        before, self._waiting = self._waiting, []
        while len(found) < number:
            one = before.pop(0) if before else self._next()
            (self._waiting if one in found or one in besides else found).append(one)
        self._waiting += before
        return found

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"read": self._read, "waiting": list(self._waiting)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self._read, self._waiting = state["read"], list(state["waiting"])

    def _next(self) -> int:
        epoch, place = divmod(self._read, self._count)
        if epoch != self._epoch:
            self._order = list(range(self._count))
            random.Random(f"{self._seed}-prompts-{epoch}").shuffle(self._order)  # noqa: S311 (an order, not a secret)
            if epoch == 0 and self._difficulties:
                self._order.sort(key=lambda one: self._difficulties[one])
            self._epoch = epoch
        self._read += 1
        return self._order[place]
