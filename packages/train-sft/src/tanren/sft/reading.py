"""Loss and gradient norm of a step: made on the device, read by the host when it need not wait for them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from tanren.sft.packing import Step


@dataclass(frozen=True)
class Moment:
    """A point in the work that a device has been given: on a GPU, when it gets there."""

    host: float
    event: torch.cuda.Event | None

    @classmethod
    def now(cls, device: torch.device) -> Moment:
        """Return the end of the work so far."""
        if device.type != "cuda":
            return cls(time.perf_counter(), None)
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return cls(time.perf_counter(), event)

    def wait(self) -> None:
        """Wait until the device is there."""
        if self.event is not None:
            self.event.synchronize()

    def until(self, later: Moment) -> float:
        """Return the seconds from here to a later moment that has been waited for."""
        if self.event is None or later.event is None:
            return later.host - self.host
        return float(self.event.elapsed_time(later.event)) / 1000


@dataclass(frozen=True)
class Reading:
    """What a step gave, on its way from the device."""

    step: Step
    number: int
    """Of the step, counted from 1."""
    lr: float
    values: torch.Tensor
    """Loss and gradient norm, (2,), float32."""
    ended: Moment

    @classmethod
    def take(cls, step: Step, number: int, lr: float, loss: torch.Tensor, norm: torch.Tensor) -> Reading:
        """Begin to fetch them; a GPU goes on meanwhile."""
        values = torch.stack((loss, norm.to(loss)))
        fetched = torch.empty(2, pin_memory=values.is_cuda)
        fetched.copy_(values, non_blocking=True)
        return cls(step, number, lr, fetched, Moment.now(values.device))

    def read(self) -> tuple[float, float]:
        """Return loss and gradient norm; waits until the device has made them."""
        self.ended.wait()
        loss, norm = self.values.tolist()
        return loss, norm


def hold_back(optimizer: torch.optim.Optimizer, loss: torch.Tensor, norm: torch.Tensor, limit: float) -> None:
    """Let the device itself leave out the optimizer's next update where loss or norm is no number, or the loss is above `limit`.

    The optimizer is torch's fused AdamW, which asks for this where gradients were scaled to 16 bits.
    """
    good = torch.isfinite(loss) & torch.isfinite(norm) & (loss <= limit)
    optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
