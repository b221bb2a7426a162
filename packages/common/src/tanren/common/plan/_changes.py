"""The cheapest changes that would make a run fit, as flags ready to paste."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from tanren.common.config import Checkpointing
from tanren.common.plan._categories import WEIGHTS
from tanren.common.plan._job import Change, Choice, Job
from tanren.common.plan._prediction import Prediction, predict
from tanren.common.plan._target import GIB, chips_with
from tanren.common.plan._verdict import Verdict, verdict_of

WANTED = 3


@dataclass(frozen=True)
class Remedy:
    """A change that fits by the planner's own account."""

    flags: str
    prediction: Prediction

    def line(self, before: Prediction) -> str:
        """Say what to write, what it would need, and what it costs."""
        slower = self.prediction.total_seconds / before.total_seconds - 1
        cost = f"{100 * slower:+.0f} % time" if abs(slower) >= 0.005 else "no slower"
        return f"{self.flags}  ({self.prediction.needed / GIB:.1f} GiB, {cost})"


def remedies(job: Job, prediction: Prediction) -> list[Remedy]:
    """Return the three cheapest changes, by predicted time, that would make the run fit; fewer where fewer would.

    Single changes go first; two together, and other GPUs, only where they do not suffice.
    """
    target = prediction.target
    found: list[Remedy] = []
    groups = [_single(job, prediction.choice), _double(job, prediction.choice)]
    # Where the frozen weights alone are too large, no setting helps.
    for group in groups if prediction.trace.peak.get(WEIGHTS, 0) < target.free else []:
        for change, choice in group:
            remedy = Remedy(change.flags, predict(change.job, choice, target))
            if verdict_of(remedy.prediction) is Verdict.FITS and not any(_same(remedy, other) for other in found):
                found.append(remedy)
        if len(found) >= WANTED:
            break
    found.sort(key=lambda remedy: remedy.prediction.total_seconds)
    return [*found[:WANTED], *_other_gpus(prediction, WANTED - len(found))]


def _same(one: Remedy, other: Remedy) -> bool:
    """Whether two changes come to the same micro-batches."""
    first, second = one.prediction, other.prediction
    same_work = first.layout == second.layout and first.trace.parameters == second.trace.parameters
    return same_work and first.choice.checkpointing == second.choice.checkpointing


def _single(job: Job, choice: Choice) -> Iterator[tuple[Change, Choice]]:
    for checkpointing in _more(choice.checkpointing):
        other = replace(choice, checkpointing=checkpointing)
        yield Change(_flags(job, choice, other), job), other
    for tokens in _smaller(job, choice.micro_batch_tokens):
        other = replace(choice, micro_batch_tokens=tokens)
        yield Change(_flags(job, choice, other), job), other
    for change in job.changes():
        yield change, choice


def _double(job: Job, choice: Choice) -> Iterator[tuple[Change, Choice]]:
    """Full checkpointing, and something else with it."""
    full = replace(choice, checkpointing="full")
    if choice.checkpointing != "full":
        for tokens in _smaller(job, choice.micro_batch_tokens):
            other = replace(full, micro_batch_tokens=tokens)
            yield Change(_flags(job, choice, other), job), other
    least = min((choice.micro_batch_tokens, *_smaller(job, choice.micro_batch_tokens)))
    for change in job.changes():
        other = Choice(min(least, max(change.job.longest, 1)), "full")
        yield Change(f"{_flags(job, choice, other)} {change.flags}", change.job), other


def _more(checkpointing: Checkpointing) -> tuple[Checkpointing, ...]:
    every: tuple[Checkpointing, ...] = get_args(Checkpointing)
    return every[every.index(checkpointing) + 1 :]


def _smaller(job: Job, tokens: int) -> Iterator[int]:
    """Yield half, a quarter, and as little as the longest sample allows."""
    for part in (tokens // 2, tokens // 4):
        if part > job.longest:
            yield part
    if job.longest < min(tokens, job.largest_step):
        yield job.longest


def _flags(job: Job, before: Choice, after: Choice) -> str:
    old = job.flags(before)
    changed = {name: value for name, value in job.flags(after).items() if value != old[name]}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())


def _other_gpus(prediction: Prediction, number: int) -> Iterator[Remedy]:
    """Name the smallest GPUs on which the recipe fits as it is."""
    if number <= 0 or prediction.target.device != "cuda":
        return
    for target in chips_with(prediction.needed)[:number]:
        yield Remedy(
            f"a GPU with {target.total / GIB:.0f} GiB, such as {target.name}", replace(prediction, target=target)
        )
