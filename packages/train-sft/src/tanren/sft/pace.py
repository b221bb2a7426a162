"""How fast it goes and when it will be done: from one timed pass before step 1, then from the steps themselves."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tanren.common.console import Console
from tanren.common.times import clock, span
from tanren.sft.packing import MicroBatch, Steps


class Pace:
    """Knows the tokens of every step, so that short and long ones are told apart."""

    def __init__(self, steps: Steps) -> None:
        """Count the tokens of a laid-out run."""
        self._steps = steps
        self._up_to = np.concatenate([[0], np.cumsum(steps.step_tokens)])
        self.supervised_share = float(steps.supervised.sum() / self._up_to[-1])
        self._tokens, self._seconds, self._logged = 0, 0.0, 0

    def note(self, tokens: int, seconds: float) -> None:
        """Take in the steps since the last logged one; the first compiles and allocates, so the second replaces it."""
        self._logged += 1
        if self._logged <= 2:
            self._tokens, self._seconds = 0, 0.0
        self._tokens, self._seconds = self._tokens + tokens, self._seconds + seconds

    def left(self, done: int) -> float:
        """Return the seconds that the steps after step `done` will take."""
        return float(self._up_to[-1] - self._up_to[done]) * self._seconds / max(1, self._tokens)

    def probe(
        self,
        done: int,
        run_pass: Callable[[MicroBatch], None],
        console: Console,
        *,
        twice: bool,
    ) -> None:
        """Time one pass of the largest micro-batch after step `done`, and say when the run will be finished.

        The largest, so that a device without the memory for it says so now. `twice` where the first pass compiles kernels:
        the second one counts. `run_pass` must leave no trace.
        """
        steps = self._steps
        first = int(steps.first_micro_batches[done])
        entries = steps.micro_batch(first + int(steps.tokens[first:].argmax()))
        largest = MicroBatch(tuple(steps.samples[entry] for entry in entries))
        console.line(
            f"probe: the largest micro-batch, {largest.tokens} tokens, forward and backward, without an update ..."
        )
        took: list[float] = []
        for _ in range(1 + twice):
            begun = time.perf_counter()
            run_pass(largest)
            took.append(time.perf_counter() - begun)
        self._tokens, self._seconds = largest.tokens, took[-1]
        left, count = self.left(done), len(steps) - done
        console.line(
            f"probe: {', then '.join(f'{seconds:.1f} s' for seconds in took)}; one step takes about {span(left / count)}: "
            f"{count} steps, {span(left)}, done about {clock(left)}"
        )
