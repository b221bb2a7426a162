"""Settings that a recipe leaves open, chosen by a run for the machine that it is on; and a run that cannot fit, refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError
from tanren.common.models.device import DevicePlan
from tanren.common.plan import (
    CUDA_CONTEXT,
    GIB,
    Job,
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
from tanren.common.run import RunDirectory

MakeJob = Callable[[Target], Job]


def settle(
    open_settings: Sequence[str], make_job: MakeJob, device: DevicePlan, console: Console
) -> tuple[Mapping[str, Any], Prediction | None]:
    """Return values for the open settings (dotted names), and what the run will need with them.

    None where the model cannot be traced and nothing is open. Raises MachineError with the three cheapest changes where the
    prediction is well above the free memory.
    """
    from tanren.common.plan.trace import NotTraceableError

    try:
        with console.phase("plan memory", "choosing " + ", ".join(open_settings) if open_settings else ""):
            target = target_here(device)
            job = make_job(target)
            prediction = fit(job, target, tuple(open_settings)).least
    except NotTraceableError as error:
        if open_settings:
            raise UserError(
                f"{error}; so nothing can be chosen for it: give {' and '.join(open_settings)} a value"
            ) from None
        console.warn(str(error))
        return {}, None
    if verdict_of(prediction) is Verdict.REFUSED:
        lines = [f"  {remedy.line(prediction)}" for remedy in remedies(job, prediction)]
        raise MachineError(
            f"this run does not fit into the memory of {target.name}: {verdict_line(prediction)}; what would make it fit, "
            "the cheapest first:\n"
            + ("\n".join(lines) or "  nothing here: a smaller model, or a device with more memory")
        )
    console.line(
        f"memory: {verdict_line(prediction)}, {prediction.allocated / GIB:.1f} GiB of it allocated by torch at the peak"
    )
    if verdict_of(prediction) is Verdict.TIGHT:
        console.warn(f"the plan is as large as the free memory: {verdict_line(prediction)}")
    chosen = {name: value for name, value in job.flags(prediction.choice).items() if name in open_settings}
    for name, value in chosen.items():
        console.line(f"plan: {name} = {value}")
    return chosen, prediction


def recorded_choice(run: RunDirectory, open_settings: Sequence[str]) -> dict[str, Any]:
    """Return what a run's own plan chose for the open settings: a resumed run does not choose again."""
    recorded = run.read_config()
    return {name: recorded["train"][name.removeprefix("train.")] for name in open_settings}


def target_here(device: DevicePlan) -> Target:
    """Return the device of this process as the planner sees it."""
    if device.device == "cpu":
        return find_target(None, None, "cpu")
    import torch

    # Torch is asked, not NVML: it knows which GPU it takes, and the memory of one that shares it with the CPU.
    # Asking makes this process's CUDA context, which the prediction counts: it is there already.
    free, total = torch.cuda.mem_get_info()
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return present_gpu(name, capability, total, min(free + CUDA_CONTEXT, total))
