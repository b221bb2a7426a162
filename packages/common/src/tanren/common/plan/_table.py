"""The plan as a person reads it, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tanren.common.plan._changes import Remedy
from tanren.common.plan._job import Job
from tanren.common.plan._prediction import Prediction
from tanren.common.plan._probe import Measured
from tanren.common.plan._target import GIB
from tanren.common.plan._verdict import Verdict, fits_with_margin, verdict_of

BAR = 24  # characters for the whole
MOST_LISTED = 12
"""Choices that are listed; what was chosen is among them."""


@dataclass(frozen=True)
class Answer:
    """What a plan says."""

    job: Job
    prediction: Prediction
    tried: tuple[Prediction, ...] = ()
    """The choices that were compared, where the planner chose."""
    remedies: tuple[Remedy, ...] = ()
    """What would make it fit, where it does not."""
    probe: tuple[Prediction, Measured] | None = None
    """What was predicted, and what a probe measured."""


def table(answer: Answer) -> Iterator[str]:
    """Yield the lines of the plan."""
    job, prediction = answer.job, answer.prediction
    trace, layout, target, choice = prediction.trace, prediction.layout, prediction.target, prediction.choice
    share = 100 * trace.trained / trace.parameters
    yield f"model     {job.shape.name}: {_count(trace.parameters)} parameters, {_count(trace.trained)} trained ({share:.2f} %): {job.title}"
    for note in job.shape.notes:
        yield f"          {note}"
    where = "this machine's" if target.here else "not this machine's"
    yield f"device    {target.name} ({where}), {target.free / GIB:.1f} of {target.total / GIB:.1f} GiB free; attention {job.attention}"
    yield f"settings  micro-batches of {choice.micro_batch_tokens} tokens, gradient checkpointing {choice.checkpointing}"
    yield ""
    yield "memory at the peak of a training step, GiB"
    for name, size in prediction.components.items():
        yield f"  {name:<24}{size / GIB:8.2f}  {'█' * round(BAR * size / prediction.allocated)}"
    yield f"  {'allocated by torch':<24}{prediction.allocated / GIB:8.2f}"
    if target.device == "cuda" and len(prediction.phases) == 1:
        rest = prediction.needed - prediction.allocated
        yield f"  {'CUDA context, slack':<24}{rest / GIB:8.2f}"
    yield from _phases(prediction)
    yield verdict_line(prediction)
    for remedy in answer.remedies:
        yield f"  {remedy.line(prediction)}"
    if answer.tried:
        yield ""
        yield "tried     checkpointing  micro-batch       GiB   time"
        listed = sorted(answer.tried, key=lambda one: (one.total_seconds, one.needed))[:MOST_LISTED]
        yield from (_tried(one, chosen=one.choice == prediction.choice) for one in listed)
    if answer.probe is not None:
        yield ""
        yield from _probed(*answer.probe)
    yield ""
    yield (
        f"work      {layout.steps} steps, {len(layout.micro_batches)} micro-batches, {layout.tokens:,} tokens ({layout.supervised:,} learned), "
        f"{prediction.flops_per_token / 1e9:.2f} GFLOP a token"
    )
    total = prediction.total_seconds
    parts = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in prediction.seconds.items())
    yield f"time      {duration(total)} of training, {total / layout.steps:.3g} s a step, {layout.tokens / total:,.0f} tokens/s; limited by {parts}"
    yield f"          ceilings: {target.ceilings.measured}"


def _phases(prediction: Prediction) -> Iterator[str]:
    """Yield the phases of a run that has several: their sums, and what is in them."""
    if len(prediction.phases) == 1:
        return
    yield ""
    yield "memory by phase, with context and slack, GiB"
    for phase, components in prediction.phases.items():
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in components.items() if size >= GIB / 20)
        mark = " <" if phase == prediction.largest_phase else ""
        yield f"  {phase:<24}{prediction.phase_bytes(phase) / GIB:8.2f}  {parts}{mark}"
    for fact in prediction.job.facts(prediction.components, prediction.target):
        yield f"  {fact}"


def _tried(one: Prediction, *, chosen: bool) -> str:
    choice = one.choice
    mark = "chosen" if chosen else "" if fits_with_margin(one) else "no room"
    return f"          {choice.checkpointing:<14}{choice.micro_batch_tokens:>11}{one.needed / GIB:>10.1f}   {duration(one.total_seconds):<9}{mark}".rstrip()


def _probed(predicted: Prediction, measured: Measured) -> Iterator[str]:
    yield "probe                       predicted  measured  predicted/measured"
    if measured.allocated is not None:
        yield (
            f"  allocated by torch, GiB   {predicted.allocated / GIB:>9.2f}{measured.allocated / GIB:>10.2f}"
            f"{predicted.allocated / measured.allocated:>12.3f}"
        )
    if measured.resident is not None:
        yield f"  whole process, GiB        {'':>9}{measured.resident / GIB:>10.2f}"
    ratio = predicted.largest_seconds / measured.seconds
    yield f"  largest micro-batch, s    {predicted.largest_seconds:>9.3f}{measured.seconds:>10.3f}{ratio:>12.3f}"


def verdict_line(prediction: Prediction) -> str:
    """Say whether it fits."""
    target = prediction.target
    numbers = f"{prediction.needed / GIB:.1f} of {target.free / GIB:.1f} GiB"
    verdict = verdict_of(prediction)
    if verdict is Verdict.FITS:
        return f"fits: {numbers}"
    if verdict is Verdict.TIGHT:
        return f"tight: {numbers}: it may fit or not"
    return f"does not fit: {numbers}"


def as_json(answer: Answer) -> dict[str, Any]:
    """Return the plan as JSON types; sizes in bytes, times in seconds."""
    job, prediction = answer.job, answer.prediction
    trace, layout, target = prediction.trace, prediction.layout, prediction.target
    return {
        "model": {
            "name": job.shape.name,
            "parameters": trace.parameters,
            "trained": trace.trained,
            "method": job.title,
            "notes": list(job.shape.notes),
        },
        "attention": job.attention,
        "device": {
            "name": target.name,
            "kind": target.device,
            "memory": target.total,
            "free": target.free,
            "here": target.here,
            "ceilings": target.ceilings.measured,
        },
        "settings": dict(job.flags(prediction.choice)),
        "memory": dict(prediction.components),
        "phases": {phase: dict(components) for phase, components in prediction.phases.items()},
        "allocated": prediction.allocated,
        "needed": prediction.needed,
        "verdict": verdict_of(prediction).value,
        "steps": layout.steps,
        "micro_batches": len(layout.micro_batches),
        "tokens": layout.tokens,
        "supervised_tokens": layout.supervised,
        "flops_per_token": prediction.flops_per_token,
        "seconds": dict(prediction.seconds),
        "total_seconds": prediction.total_seconds,
        "tried": [
            {
                **asdict(one.choice),
                "needed": one.needed,
                "total_seconds": one.total_seconds,
                "fits": fits_with_margin(one),
            }
            for one in answer.tried
        ],
        "remedies": [
            {
                "flags": remedy.flags,
                "needed": remedy.prediction.needed,
                "total_seconds": remedy.prediction.total_seconds,
            }
            for remedy in answer.remedies
        ],
        "probe": asdict(answer.probe[1]) if answer.probe else None,
    }


def _count(number: int) -> str:
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number:,}"


def duration(seconds: float) -> str:
    """Say seconds as a person would."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
