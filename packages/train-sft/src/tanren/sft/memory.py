"""The memory of a run: planned before its weights are loaded, held against what was measured when it has trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tanren.common.chat import Sample
from tanren.common.console import Console
from tanren.common.errors import MachineError
from tanren.common.models.device import DevicePlan
from tanren.common.plan import GIB, Prediction, verdict_line
from tanren.common.plan.packed import open_settings_of
from tanren.common.plan.settle import recorded_choice, settle
from tanren.common.run import RunDirectory
from tanren.sft.plan import Plan
from tanren.sft.planner import job_for


@dataclass(frozen=True)
class Settled:
    """The plan with nothing left open, and what it will need; None on a CPU with nothing to choose."""

    plan: Plan
    prediction: Prediction | None

    def record(self, measured: int | None = None) -> dict[str, Any]:
        """Return what the run records: GiB predicted, and with `measured` bytes how far that was off."""
        if self.prediction is None:
            return {}
        found: dict[str, Any] = {
            "predicted_gib": round(self.prediction.allocated / GIB, 3),
            "needed_gib": round(self.prediction.needed / GIB, 3),
            "free_gib": round(self.prediction.target.free / GIB, 3),
            "predicted_seconds": round(self.prediction.total_seconds, 3),
        }
        if measured is None:
            components = self.prediction.components.items()
            return found | {"components_gib": {name: round(size / GIB, 3) for name, size in components}}
        ratio = self.prediction.allocated / measured
        return found | {"measured_gib": round(measured / GIB, 3), "predicted_to_measured": round(ratio, 3)}


def settle_memory(plan: Plan, samples: Sequence[Sample], device: DevicePlan, console: Console) -> Settled:
    """Choose what is left to the planner, and refuse a run that cannot fit.

    Raises MachineError with the three cheapest changes where the prediction is well above the free memory.
    """
    open_settings = open_settings_of(plan.loaded.values())
    if device.device == "cpu" and not open_settings:
        return Settled(plan, None)
    chosen, prediction = settle(open_settings, lambda target: job_for(plan, samples, target), device, console)
    return Settled(replace(plan, loaded=plan.loaded.with_values(chosen, "plan")), prediction)


@contextmanager
def measured_memory(settled: Settled, console: Console) -> Iterator[dict[str, Any]]:
    """Measure the peak of what runs inside on a GPU; the yielded record is filled when it ends.

    Raises MachineError with what would help where the GPU has no memory left.
    """
    import torch

    record: dict[str, Any] = {}
    if settled.prediction is None or settled.prediction.target.device == "cpu":
        yield record
        return
    torch.cuda.reset_peak_memory_stats()
    try:
        yield record
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the GPU has no memory left: {str(error).splitlines()[0]}; the plan had said: {verdict_line(settled.prediction)}. "
            "Lower train.micro_batch_tokens, or set train.gradient_checkpointing to selective or full; `tanren plan --fit` chooses"
        ) from None
    record |= settled.record(torch.cuda.max_memory_allocated())
    console.line(
        "memory: {measured_gib:.2f} GiB allocated at the peak, {predicted_gib:.2f} were predicted".format(**record)
    )


def take_recorded(plan: Plan, run: RunDirectory) -> Plan:
    """Return the plan with what a run's own plan chose: a resumed run does not choose again."""
    chosen = recorded_choice(run, open_settings_of(plan.loaded.values()))
    return replace(plan, loaded=plan.loaded.with_values(chosen, "plan"))
