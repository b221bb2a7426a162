"""Two real steps with random weights, in a process of their own: what the device really takes, to correct the plan by."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from tanren.common.config import Loaded
from tanren.common.errors import MachineError
from tanren.common.plan._job import Choice
from tanren.common.plan._prediction import Prediction

MARK = "probe: "
"""Begins the line of the child's answer; all else that it prints belongs to libraries."""


@dataclass(frozen=True)
class Measured:
    """What the second of two steps of the largest micro-batch took."""

    seconds: float
    """Of a micro-batch's forward and backward pass and an update."""
    allocated: int | None
    """Bytes, the peak of torch's allocations; None on a CPU."""
    reserved: int | None
    """Bytes that torch's allocator held at most; None on a CPU."""
    context: int | None
    """Bytes on the GPU outside the allocator; None on a CPU."""
    resident: int | None
    """Bytes of the process in memory at most; None on a GPU."""


def run_probe(command: str, loaded: Loaded[Any], choice: Choice) -> Measured:
    """Measure a choice of a recipe on this machine's device. Raises MachineError where the steps fail."""
    request = {"command": command, "config": loaded.values(), "choice": asdict(choice)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tanren.common.plan._probe_child"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or not answers:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MachineError(
            f"the probe of {choice.micro_batch_tokens} tokens with checkpointing {choice.checkpointing} failed: {last}"
        )
    return Measured(**json.loads(answers[-1]))


def corrected(prediction: Prediction, measured: Measured) -> Prediction:
    """Return the prediction of what was measured; others for the same target are corrected in proportion."""
    pace = measured.seconds / prediction.largest_seconds
    target = replace(prediction.target, time_factor=prediction.target.time_factor * pace)
    if measured.allocated is not None and measured.reserved is not None and measured.context is not None:
        passing = prediction.passing
        found = max(0, measured.allocated - (prediction.allocated - passing))
        target = replace(
            target,
            passing_factor=prediction.target.passing_factor * found / max(1, passing),
            slack=(measured.reserved - measured.allocated) / max(1, prediction.trace.largest),
            context=measured.context,
        )
    return replace(prediction, target=target)
