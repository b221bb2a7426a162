"""The log of a run's steps: on the console, in the metrics and for the tracker, in full precision."""

from __future__ import annotations

import torch

from tanren.common.console import Bar, Console
from tanren.common.times import clock
from tanren.common.tracking import Tracker
from tanren.sft.pace import Pace
from tanren.sft.packing import Steps
from tanren.sft.reading import Moment, Reading


class StepLog:
    """Collects steps, and reports those since the last report as one."""

    def __init__(self, steps: Steps, every: int, console: Console, tracker: Tracker, device: str) -> None:
        """Report every so many steps that a device makes."""
        self.pace = Pace(steps)
        self.bar: Bar | None = None
        self._every, self._console, self._tracker = every, console, tracker
        self._losses: list[float] = []
        self._work: list[tuple[int, int]] = []
        """Tokens, and those learned."""
        self._newest: tuple[Reading, float] | None = None
        self._device = torch.device(device)
        self._begun = Moment.now(self._device)

    def start_clock(self) -> None:
        """Begin to time the next step now."""
        self._begun = Moment.now(self._device)

    def note(self, reading: Reading, loss: float, norm: float) -> None:
        """Take in a step."""
        self._losses.append(loss)
        self._work.append((reading.step.tokens, reading.step.supervised))
        self._newest = reading, norm

    def report(self, *, now: bool = False) -> None:
        """Report the steps since the last report, if that is due or to be done `now`."""
        if self._newest is None:
            return
        reading, norm = self._newest
        if not now and reading.number % self._every:
            return
        seconds = self._begun.until(reading.ended)
        self._begun = reading.ended
        tokens, supervised = (sum(counts) for counts in zip(*self._work, strict=True))
        values = {
            "step": reading.number,
            "loss": sum(self._losses) / len(self._losses),
            "grad_norm": norm,
            "lr": reading.lr,
            "tokens": tokens,
            "supervised_tokens": supervised,
            "supervised_share": supervised / tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
        }
        self._losses, self._work, self._newest = [], [], None
        self._console.record("step", values)
        self._tracker.log_step(reading.number, values)
        if self.bar is not None:
            self.pace.note(tokens, seconds)
            self._say(self.bar, values)

    def _say(self, bar: Bar, values: dict[str, float]) -> None:
        done, share = int(values["step"]), values["supervised_share"]
        left = self.pace.left(done)
        facts = f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['tokens_per_second']:.0f} tokens/s"
        usual = self.pace.supervised_share
        if not usual / 2 <= share <= usual * 2:
            facts += f"  {100 * share:.0f} % learned (the run: {100 * usual:.0f} %)"
        bar.report(done, f"{facts}  {left:.0f} s left, done about {clock(left)}")
