"""The memory of a run: planned before its weights are loaded, held against what was measured when it has trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tanren.common.chat import Sample
from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError
from tanren.common.models.device import DevicePlan
from tanren.common.plan import (
    CUDA_CONTEXT,
    GIB,
    Prediction,
    Target,
    Verdict,
    find_target,
    fit,
    present_gpu,
    remedies,
    verdict_line,
    verdict_of,
)
from tanren.common.plan.packed import open_settings_of
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
    from tanren.common.plan.trace import NotTraceableError

    try:
        with console.phase("plan memory", "choosing " + ", ".join(open_settings) if open_settings else ""):
            target = _target_here(device)
            job = job_for(plan, samples, target)
            prediction = fit(job, target, open_settings).least
    except NotTraceableError as error:
        if open_settings:
            raise UserError(
                f"{error}; so nothing can be chosen for it: give {' and '.join(open_settings)} a value"
            ) from None
        console.warn(str(error))
        return Settled(plan, None)
    if verdict_of(prediction) is Verdict.REFUSED:
        lines = [f"  {remedy.line(prediction)}" for remedy in remedies(job, prediction)]
        raise MachineError(
            f"this run does not fit into the memory of {target.name}: {verdict_line(prediction)}; what would make it fit, "
            "the cheapest first:\n"
            + ("\n".join(lines) or "  nothing here: a smaller model, or a device with more memory")
        )
    said = (
        f"memory: {verdict_line(prediction)}, {prediction.allocated / GIB:.1f} GiB of it allocated by torch at the peak"
    )
    console.line(said)
    if verdict_of(prediction) is Verdict.TIGHT:
        console.warn(f"the plan is as large as the free memory: {verdict_line(prediction)}")
    chosen = {name: value for name, value in job.flags(prediction.choice).items() if name in open_settings}
    for name, value in chosen.items():
        console.line(f"plan: {name} = {value}")
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
    recorded = run.read_config()
    open_settings = open_settings_of(plan.loaded.values())
    chosen = {name: recorded["train"][name.removeprefix("train.")] for name in open_settings}
    return replace(plan, loaded=plan.loaded.with_values(chosen, "plan"))


def _target_here(device: DevicePlan) -> Target:
    if device.device == "cpu":
        return find_target(None, None, "cpu")
    import torch

    # Torch is asked, not NVML: it knows which GPU it takes, and the memory of one that shares it with the CPU.
    # Asking makes this process's CUDA context, which the prediction counts: it is there already.
    free, total = torch.cuda.mem_get_info()
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return present_gpu(name, capability, total, min(free + CUDA_CONTEXT, total))
