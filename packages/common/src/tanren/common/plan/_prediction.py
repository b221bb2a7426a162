"""From a trace to numbers that can be held against a device: memory by component, seconds by what limits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tanren.common.plan._job import Choice, Job, Layout
from tanren.common.plan._target import Target

if TYPE_CHECKING:
    from tanren.common.plan._operations import Operation
    from tanren.common.plan._step import StepTrace

MIB = 2**20
WORKSPACE = "cuBLAS"
PASSING = ("activations", "logits, loss", "backward")  # of the categories of a trace

# One for each thread that multiplies (forward, backward): CUBLAS_WORKSPACE_CONFIG=:4096:8, which training sets, is
# 8 pieces of 4096 KiB. https://docs.nvidia.com/cuda/cublas/#results-reproducibility
CUBLAS_WORKSPACE = 2 * 8 * 4096 * 1024


@dataclass(frozen=True)
class Prediction:
    """What a run of one choice needs."""

    choice: Choice
    layout: Layout
    trace: StepTrace
    target: Target

    @cached_property
    def components(self) -> Mapping[str, int]:
        """Bytes in use at the peak, by what they are for."""
        factor = self.target.passing_factor
        found = {
            name: round(size * factor) if name in PASSING else size for name, size in self.trace.peak.items() if size
        }
        return found | ({WORKSPACE: CUBLAS_WORKSPACE} if self.target.device == "cuda" else {})

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch."""
        return sum(self.layout.largest)

    @property
    def allocated(self) -> int:
        """Peak of what torch allocates: comparable with torch.cuda.max_memory_allocated."""
        return sum(self.components.values())

    @property
    def passing(self) -> int:
        """The part of the peak that a step makes and gives back: it grows with the tokens."""
        return sum(size for name, size in self.components.items() if name in PASSING)

    @property
    def needed(self) -> int:
        """Bytes that must be free on the device: with the allocator's slack and the CUDA context."""
        return int(self.allocated * (1 + self.target.slack)) + self.target.context

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of the whole run by what limits them: compute, memory, launches."""
        pace = Pace(self.target)
        micro = pace.seconds(self.trace.operations)
        update = pace.seconds(self.trace.update)
        # The traced micro-batch is the largest; the others cost by their tokens, but launch as many kernels.
        share = self.layout.tokens / self.tokens
        times = {"compute": share, "memory": share, "launches": self.layout.micro_batches}
        return {name: micro[name] * times[name] + update[name] * self.layout.steps for name in micro}

    @cached_property
    def largest_seconds(self) -> float:
        """Seconds of the largest micro-batch with an update."""
        pace = Pace(self.target)
        return sum(pace.seconds(self.trace.operations).values()) + sum(pace.seconds(self.trace.update).values())

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

    def seconds(self, operations: Mapping[Operation, int]) -> dict[str, float]:
        """Return the seconds of operations by what limits each: products, memory, or the launch of its kernel."""
        found = {"compute": 0.0, "memory": 0.0, "launches": 0.0}
        ceilings = self.target.ceilings
        for operation, number in operations.items():
            full = operation.matrix in ("bfloat16", "float16") or self.target.device == "cpu"
            rate = ceilings.matrix_flops_per_s if full else self.target.float32_flops_per_s
            parts = {
                "compute": operation.flops / rate,
                "memory": operation.moved / ceilings.bandwidth_bytes_per_s,
                "launches": ceilings.launch_seconds,
            }
            limit = max(parts, key=parts.__getitem__)
            found[limit] += parts[limit] * number * self.target.time_factor
        return found


def predict(job: Job, choice: Choice, target: Target) -> Prediction:
    """Predict a run of one choice."""
    return Prediction(choice, job.layout(choice), job.trace(choice), target)
