"""From a trace to numbers that can be held against a device: memory by component, seconds by what limits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tanren.common.plan._categories import PASSING
from tanren.common.plan._job import Choice, Job, Layout
from tanren.common.plan._target import HOST_SECONDS, REACHED_EAGER, Target

if TYPE_CHECKING:
    from tanren.common.plan._operations import Operation
    from tanren.common.plan._step import StepTrace

WORKSPACE = "cuBLAS"
FLOAT8 = "float8_e4m3fn"

# One for each thread that multiplies (forward, backward): CUBLAS_WORKSPACE_CONFIG=:4096:8, which training sets, is
# 8 pieces of 4096 KiB. https://docs.nvidia.com/cuda/cublas/#results-reproducibility
CUBLAS_WORKSPACE = 2 * 8 * 4096 * 1024


@dataclass(frozen=True)
class Prediction:
    """What a run of one choice needs."""

    job: Job
    choice: Choice
    layout: Layout
    trace: StepTrace
    target: Target

    @cached_property
    def components(self) -> Mapping[str, int]:
        """Bytes in use at the peak of a training step, by what they are for."""
        factor = self.target.passing_factor
        found = {
            name: round(size * factor) if name in PASSING else size for name, size in self.trace.peak.items() if size
        }
        return found | ({WORKSPACE: CUBLAS_WORKSPACE} if self.target.device == "cuda" else {})

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch."""
        return self.layout.largest.tokens

    @property
    def allocated(self) -> int:
        """Peak of what torch allocates in training: comparable with torch.cuda.max_memory_allocated."""
        return sum(self.components.values())

    @property
    def passing(self) -> int:
        """The part of the peak that a step makes and gives back: it grows with the tokens."""
        return sum(size for name, size in self.components.items() if name in PASSING)

    @property
    def needed(self) -> int:
        """Bytes that must be free on the device: the largest phase, with the allocator's slack and the CUDA context."""
        return self.phase_bytes(self.largest_phase)

    @cached_property
    def phases(self) -> Mapping[str, Mapping[str, int]]:
        """Bytes by what they are for, in each phase of the run."""
        return self.job.phases(self.components, self.target)

    @property
    def largest_phase(self) -> str:
        """The phase that takes most memory."""
        return max(self.phases, key=self.phase_bytes)

    def phase_bytes(self, phase: str) -> int:
        """Bytes that must be free on the device in a phase."""
        components = self.phases[phase]
        trains = any(name in PASSING for name in components)
        slack = int(self.target.slack * self.trace.largest) if trains else 0
        return sum(components.values()) + slack + self.target.context

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of the whole run by what limits them: compute or memory of the device, or the host that feeds it.

        Host and GPU work at the same time, so a micro-batch takes as long as the slower of the two. On a CPU they are one.
        """
        pace = Pace(self.target)
        device, host = pace.device(self.trace.operations), pace.host(self.trace.operations)
        update = pace.device(self.trace.update)
        found = {name: seconds * self.layout.steps for name, seconds in update.items()} | {"host": 0.0}
        whole = sum(device.values())
        for tokens in self.layout.micro_batches:  # the traced one is the largest; the device's work goes by tokens
            share = tokens / self.tokens
            if self.target.device == "cpu" or whole * share > host:
                for name, seconds in device.items():
                    found[name] += seconds * share
            if self.target.device == "cpu" or whole * share <= host:
                found["host"] += host
        return found

    @cached_property
    def largest_seconds(self) -> float:
        """Seconds of the largest micro-batch with an update."""
        pace = Pace(self.target)
        device, host = sum(pace.device(self.trace.operations).values()), pace.host(self.trace.operations)
        both = device + host if self.target.device == "cpu" else max(device, host)
        return both + sum(pace.device(self.trace.update).values())

    @property
    def total_seconds(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations in matrix products for each token that the model reads, forward and backward."""
        return self.trace.flops / self.tokens


@dataclass(frozen=True)
class Pace:
    """How fast a device works through operations (the roofline model, Williams et al. 2009, doi:10.1145/1498765.1498785)."""

    target: Target

    def device(self, operations: Mapping[Operation, int]) -> dict[str, float]:
        """Return the device's seconds by what limits each operation: its products, or the memory that it moves."""
        found = {"compute": 0.0, "memory": 0.0}
        ceilings = self.target.ceilings
        reached = REACHED_EAGER if self.target.device == "cuda" else 1.0
        for operation, number in operations.items():
            full = operation.matrix in ("bfloat16", "float16", FLOAT8) or self.target.device == "cpu"
            rate = ceilings.matrix_flops_per_s if full else self.target.float32_flops_per_s
            if operation.matrix == FLOAT8 and self.target.device == "cuda":
                rate *= 2  # as the data sheets of Ada, Hopper and Blackwell say
            parts = {
                "compute": operation.flops / rate,
                "memory": operation.moved / ceilings.bandwidth_bytes_per_s,
            }
            limit = max(parts, key=parts.__getitem__)
            found[limit] += parts[limit] * number * self.target.time_factor / reached
        return found

    def host(self, operations: Mapping[Operation, int]) -> float:
        """Return the seconds that the host needs to hand the operations out."""
        return sum(operations.values()) * HOST_SECONDS * self.target.time_factor


def predict(job: Job, choice: Choice, target: Target) -> Prediction:
    """Predict a run of one choice."""
    return Prediction(job, choice, job.layout(choice), job.trace(choice), target)
