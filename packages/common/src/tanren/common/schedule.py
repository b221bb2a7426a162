"""The learning rate over the steps of a run."""

from __future__ import annotations

import math

from tanren.common.config import OptimConfig


def rate_factor(step: int, steps: int, optim: OptimConfig) -> float:
    """Return the share of the peak learning rate in optimizer step `step` (from 0) of `steps`.

    Unlike the library's schedules, no step is taken at rate 0: not the first, and not the last.
    """
    warmup = round(optim.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if optim.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    share = (1 + math.cos(math.pi * progress)) / 2 if optim.schedule == "cosine" else 1 - progress
    return optim.min_lr_ratio + (1 - optim.min_lr_ratio) * share
