"""The completions of the next step, generated and judged while the model learns from those of this one.

They are one step stale, never more: step n + 1 samples with the weights that step n begins with. The weights are handed over
while nothing learns; what runs beside the learning touches neither them nor the random states of this process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tanren.grpo.collector import Collector
from tanren.grpo.rollout import Rollout


class Ahead:
    """Collects in a thread of its own."""

    def __init__(self, collector: Collector) -> None:
        """Begin with nothing under way."""
        self._collector = collector
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tanren-ahead")
        self._pending: Future[Rollout] | None = None

    def collect(self, model: Any, *, last: bool) -> Rollout:
        """Return the completions under way, and, unless they are the run's last, have those of the next step begun.

        Where none are under way, as in the first step, they are collected now. Raises whatever ended their collection.
        """
        handed_over = 0.0
        if self._pending is None:
            handed_over += self._begin(model)
        pending, self._pending = self._pending, None
        assert pending is not None
        begun = time.perf_counter()
        rollout = pending.result()
        waited = time.perf_counter() - begun
        if not last:
            handed_over += self._begin(model)
        spent = rollout.seconds["generate"] + rollout.seconds["reward"]
        return replace(
            rollout,
            seconds={"sync": handed_over, "generate": waited, "reward": 0.0},
            behind=max(0.0, spent - waited),
        )

    def _begin(self, model: Any) -> float:
        """Hand over the weights as they are now, and collect from here on; return the seconds of handing over."""
        handed_over = self._collector.hand_over(model)
        self._pending = self._thread.submit(self._collector.gather)
        return handed_over

    def state(self) -> Mapping[str, Any]:
        """Return the completions under way, once they are there: what a checkpoint keeps of them."""
        if self._pending is None:
            return {}
        return {"rollout": self._collector.kept(self._pending.result())}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up the completions of a checkpoint; they are judged again."""
        if state:
            self._pending = self._thread.submit(self._collector.again, state["rollout"])

    def close(self) -> None:
        """Wait for what is under way, whatever comes of it."""
        self._thread.shutdown(wait=True, cancel_futures=True)
