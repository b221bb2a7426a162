"""The learning rate over the steps: golden numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tanren.common.config import OptimConfig
from tanren.common.schedule import rate_factor


def _factors(steps: int, **settings: Any) -> list[float]:
    optim = OptimConfig.model_validate(settings)
    return [rate_factor(step, steps, optim) for step in range(steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant", "warmup_ratio": 0}, [1, 1, 1, 1]),
        ({"schedule": "linear", "warmup_ratio": 0}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_ratio": 0, "min_lr_ratio": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"schedule": "linear", "warmup_ratio": 0.5}, [1 / 3, 2 / 3, 1, 0.5]),
        ({"schedule": "cosine", "warmup_ratio": 0}, [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        # 0.05 + 0.95 x the share above
        ({"schedule": "cosine", "warmup_ratio": 0, "min_lr_ratio": 0.05}, [1, 0.8608757, 0.525, 0.1891243]),
    ],
)
def test_the_rate_follows_its_schedule(settings: dict[str, Any], expected: list[float]) -> None:
    assert _factors(4, **settings) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_no_step_is_taken_at_rate_0(schedule: str) -> None:
    assert min(_factors(100, schedule=schedule, warmup_ratio=0.1)) > 0


def test_the_rate_ends_near_its_least_share() -> None:
    assert _factors(1000, schedule="cosine", min_lr_ratio=0.05)[-1] == pytest.approx(0.05, abs=1e-4)
