"""The next step's completions are collected while the model learns."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tanren.common.errors import MachineError
from tanren.grpo.advantages import advantages_of
from tanren.grpo.ahead import Ahead
from tanren.grpo.rollout import Rollout


class Collecting:
    """A collector whose completions say by which weights they were made; from the second step on it waits for `learned`."""

    def __init__(self) -> None:
        self.learned = threading.Semaphore(1)
        self._weights = 0

    def hand_over(self, model: Any) -> float:
        self._weights = model["weights"]
        return 0.25

    def gather(self) -> Rollout:
        made_by = self._weights
        assert self.learned.acquire(timeout=20), "nothing was learned meanwhile"
        if made_by == 9:
            raise MachineError("the server is gone")
        return Rollout([], advantages_of([], "none"), made_by, {"sync": 0.0, "generate": 30.0, "reward": 10.0})


def test_a_step_is_collected_while_the_one_before_learns_by_the_weights_that_this_one_began_with() -> None:
    collecting, model, made_by = Collecting(), {"weights": 0}, []
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    for step in range(1, 5):
        rollout = ahead.collect(model, last=step == 4)
        made_by.append(rollout.drawn)
        assert rollout.behind is not None
        assert rollout.behind > 19  # of 40 seconds of work that took none
        assert rollout.seconds["sync"] == {1: 0.5, 4: 0.0}.get(step, 0.25)
        model["weights"] = step
        collecting.learned.release()
    ahead.close()
    assert made_by == [0, 0, 1, 2]


def test_what_ends_the_collection_ends_the_step_that_needs_it() -> None:
    collecting, model = Collecting(), {"weights": 0}
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    model["weights"] = 0
    ahead.collect(model, last=False)
    model["weights"] = 9
    collecting.learned.release()
    ahead.collect(model, last=False)
    collecting.learned.release()
    with pytest.raises(MachineError, match="the server is gone"):
        ahead.collect(model, last=False)
    ahead.close()
