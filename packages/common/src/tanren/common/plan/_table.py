"""The plan as a person reads it, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tanren.common.plan._job import Job
from tanren.common.plan._prediction import Prediction
from tanren.common.plan._target import GIB
from tanren.common.plan._verdict import Verdict, verdict_of

BAR = 24  # characters for the whole


def table(job: Job, prediction: Prediction) -> Iterator[str]:
    """Yield the lines of the plan."""
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
    if target.device == "cuda":
        rest = prediction.needed - prediction.allocated
        yield f"  {'CUDA context, slack':<24}{rest / GIB:8.2f}"
    yield verdict_line(prediction)
    yield ""
    yield (
        f"work      {layout.steps} steps, {layout.micro_batches} micro-batches, {layout.tokens:,} tokens ({layout.supervised:,} learned), "
        f"{prediction.flops_per_token / 1e9:.2f} GFLOP a token"
    )
    total = prediction.total_seconds
    parts = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in prediction.seconds.items())
    yield f"time      {_duration(total)} of training, {total / layout.steps:.3g} s a step, {layout.tokens / total:,.0f} tokens/s; limited by {parts}"
    yield f"          ceilings: {target.ceilings.measured}"


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


def as_json(job: Job, prediction: Prediction) -> dict[str, Any]:
    """Return the plan as JSON types; sizes in bytes, times in seconds."""
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
        "allocated": prediction.allocated,
        "needed": prediction.needed,
        "verdict": verdict_of(prediction).value,
        "steps": layout.steps,
        "micro_batches": layout.micro_batches,
        "tokens": layout.tokens,
        "supervised_tokens": layout.supervised,
        "flops_per_token": prediction.flops_per_token,
        "seconds": dict(prediction.seconds),
        "total_seconds": prediction.total_seconds,
    }


def _count(number: int) -> str:
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
