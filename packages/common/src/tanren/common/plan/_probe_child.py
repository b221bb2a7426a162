"""The process of a probe: a model of the recipe's shape with random weights, and two steps on the device."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the trainers set it, before CUDA starts

import torch

from tanren.common.config import Loaded
from tanren.common.plan._job import Choice, Job, find_planner
from tanren.common.plan._probe import MARK, Measured
from tanren.common.plan._target import find_target
from tanren.common.plan.trace import empty_model

STEPS = 2  # the first pays for compiled kernels and the optimizer's states


def main() -> None:
    """Read the request on standard input, answer on standard output."""
    request: dict[str, Any] = json.load(sys.stdin)
    planner = find_planner(request["command"])
    config = planner.command.model.model_validate(request["config"])
    target = find_target(None, None, request["config"]["model"]["device"])
    job = planner.job(Loaded(config, {}, None), target)
    measured = measure(job, Choice(**request["choice"]), target.device)
    sys.stdout.write(MARK + json.dumps(asdict(measured)) + "\n")


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
    optimizer = torch.optim.AdamW([one for one in trained.parameters() if one.requires_grad], fused=device == "cuda")
    loss, micro_batches = job.loss(choice), min(2, job.layout(choice).most_in_a_step)
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


if __name__ == "__main__":
    main()
