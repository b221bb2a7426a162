"""Which micro-batch and which checkpointing: the fastest by prediction of those that fit with room to spare."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import get_args

from tanren.common.config import Checkpointing
from tanren.common.plan._job import CHECKPOINTING, MICRO_BATCH_TOKENS, PLANNED, Choice, Job
from tanren.common.plan._prediction import Prediction, predict
from tanren.common.plan._target import Target
from tanren.common.plan._verdict import fits_with_margin, margin


@dataclass(frozen=True)
class Fit:
    """What was chosen, out of what."""

    best: Prediction | None
    """None where nothing fits."""
    tried: tuple[Prediction, ...]

    @property
    def least(self) -> Prediction:
        """What was chosen, or where nothing fits, what comes nearest to it."""
        return self.best or min(self.tried, key=lambda prediction: prediction.needed)


def fit(job: Job, target: Target, open_settings: Collection[str] = PLANNED) -> Fit:
    """Choose the open settings for a device; the others stay as the recipe has them.

    With each checkpointing the largest micro-batch that fits is the fastest: the same products with fewer operations for
    the host. So only the largest ones are compared.
    """
    sizes = list(_sizes(job)) if MICRO_BATCH_TOKENS in open_settings else [job.choice.micro_batch_tokens]
    every: tuple[Checkpointing, ...] = get_args(Checkpointing)
    tried: list[Prediction] = []
    largest: list[Prediction] = []
    for checkpointing in every if CHECKPOINTING in open_settings else (job.choice.checkpointing,):
        found = _largest(job, target, sizes, checkpointing, tried)
        if tried[0].trace.resident > target.free:
            break  # no choice changes what is there between the steps
        if found is not None:
            largest.append(found)
            if found.choice.micro_batch_tokens == sizes[-1]:
                break  # the others compute more for the same micro-batches
    best = min(largest, key=lambda prediction: prediction.total_seconds, default=None)
    return Fit(best, tuple(tried))


def _sizes(job: Job) -> Iterator[int]:
    """Yield the budgets worth trying, in tokens: powers of two and half as much again, from the longest sample to a whole step."""
    step = max(job.largest_step, job.longest)
    yield job.longest
    size = 2
    while size < 2 * step:
        for budget in (size, size + size // 2):
            if job.longest < budget < step:
                yield budget
        size *= 2
    if step > job.longest:
        yield step


def _largest(
    job: Job, target: Target, sizes: list[int], checkpointing: Checkpointing, tried: list[Prediction]
) -> Prediction | None:
    """Return the largest budget that fits. Memory grows with the tokens, nearly in proportion: so few are traced."""

    def trial(index: int) -> Prediction:
        tried.append(predict(job, Choice(sizes[index], checkpointing), target))
        return tried[-1]

    above = trial(len(sizes) - 1)
    if fits_with_margin(above):
        return above
    if len(sizes) == 1 or above.trace.resident > target.free or not fits_with_margin(below := trial(0)):
        return None
    low, high = 0, len(sizes) - 1  # fits, does not fit
    while high - low > 1:
        between = sizes[low + 1 : high]
        growth = (above.needed - below.needed) / max(1, above.tokens - below.tokens)
        most = below.tokens + (target.free - margin(target) - below.needed) / max(growth, 1.0)
        guess = low + max(1, sum(size <= most for size in between))
        found = trial(guess)
        if fits_with_margin(found):
            low, below = guess, found
        else:
            high, above = guess, found
    return below
