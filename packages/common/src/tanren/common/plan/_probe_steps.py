"""The steps of a probe: the recipe's own training step with random weights, on the device."""

from __future__ import annotations

import resource
import sys
import time

import torch

from tanren.common.master_weights import MasterWeights
from tanren.common.plan._job import Choice, Job
from tanren.common.plan._probe import Measured
from tanren.common.plan.trace import empty_model

STEPS = 2  # the first pays for compiled kernels and the optimizer's states


def measure(job: Job, choice: Choice, device: str) -> Measured:
    """Run the steps of the largest micro-batch of a choice."""
    empty = empty_model(job.shape, job.dtype)
    model = empty.to_empty(device=torch.device(device))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        for buffer in model.buffers():
            buffer.zero_()
    trained = job.trained_model(model, choice)
    weights = [one for one in trained.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, fused=device == "cuda")
    MasterWeights(weights).attach(optimizer)
    layout = job.layout(choice)
    loss, micro_batches = job.loss(layout.largest), 1 if layout.later is None else 2
    torch.use_deterministic_algorithms(True)
    seconds = 0.0
    for _ in range(STEPS):
        begun = time.perf_counter()
        for _ in range(micro_batches):
            loss(trained, torch.device(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - begun) / micro_batches
    if device == "cpu":
        unit = 1024 if sys.platform.startswith("linux") else 1  # ru_maxrss is KiB on Linux, bytes on macOS
        return Measured(seconds, None, None, None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    return Measured(seconds, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), outside, None)
