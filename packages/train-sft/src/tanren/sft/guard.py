"""Stops a run that has gone wrong before it is written into the weights, and keeps the batch that did it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tanren.common.chat import Sample
from tanren.common.errors import FoundWantingError
from tanren.common.run import RunDirectory, write_atomically
from tanren.sft.config import TrainConfig
from tanren.sft.packing import Step

# The running median is of so many steps: long enough not to follow a spike, short enough to follow the training.
WINDOW = 50
# Before so many there is no median worth the name: the first losses fall by themselves.
LEAST = 10


@dataclass
class GuardState:
    """What a checkpoint keeps."""

    losses: list[float] = field(default_factory=list)
    """Of the newest steps."""
    above: int = 0
    """Steps in a row above the limit."""


class Guard:
    """Watches the loss and the gradient of every step, before the optimizer has used them."""

    def __init__(self, run: RunDirectory, config: TrainConfig, decode: Callable[[Sequence[int]], str]) -> None:
        """Watch a run; `decode` turns tokens into text for the dump."""
        self._run, self._config, self._decode = run, config, decode
        self.state = GuardState()

    def take_up(self, values: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.state = GuardState(**values)

    def limit(self) -> float:
        """Return the loss, in nats per token, above which the next step ends the run."""
        return self._spike() if self.state.above + 1 >= self._config.spike_patience else math.inf

    def _spike(self) -> float:
        """Return the loss above which the next step counts as a spike."""
        before, factor = self.state.losses, self._config.spike_factor
        return factor * statistics.median(before) if factor and len(before) >= LEAST else math.inf

    def fault_of_loss(self, loss: float) -> str | None:
        """Note a step's loss (nats per token); return what is wrong with it, if anything is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        before, factor, spike, fault = self.state.losses, self._config.spike_factor, self._spike(), loss > self.limit()
        self.state.losses = [*before, loss][-WINDOW:]
        self.state.above = self.state.above + 1 if loss > spike else 0
        if not fault:
            return None
        limit = f"{factor:g} times the median of the {len(before)} steps before ({statistics.median(before):.4f})"
        return f"the loss is {loss:.4f}, above {limit}, in {self.state.above} steps in a row (train.spike_factor, train.spike_patience)"

    def stop(
        self, fault: str, step: Step, facts: Mapping[str, float | None], loss_of: Callable[[Sample], float]
    ) -> FoundWantingError:
        """Write the step's samples to `dump/step-N.jsonl` and return the error that names the worst of them.

        `facts` are the step's number, loss, rate and gradient norm, `loss_of` gives a sample's summed loss in nats.
        """
        samples = [
            (index, sample, loss_of(sample))
            for index, micro_batch in enumerate(step.micro_batches)
            for sample in micro_batch.samples
        ]
        lines: list[dict[str, Any]] = [{"kind": "step", "fault": fault, **facts}]
        lines += [
            {
                "kind": "sample",
                "row": sample.row_id,
                "micro_batch": index,
                "tokens": len(sample.input_ids),
                "supervised_tokens": sample.supervised,
                "loss": loss / max(1, sample.supervised),
                "text": self._decode(sample.input_ids),
                "input_ids": sample.input_ids,
                "loss_mask": [int(learned) for learned in sample.loss_mask],
            }
            for index, sample, loss in samples
        ]
        number = facts["step"]
        path = self._run.path / "dump" / f"step-{number}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return FoundWantingError(
            f"step {number}: {fault}; the weights are as before this step. {_worst(lines[1:])}; and start again or from an "
            f"earlier checkpoint. The batch is in {path}"
        )


def _worst(samples: Sequence[Mapping[str, Any]]) -> str:
    """Say which row has the largest loss per token (one that is no number is the largest), and what to do."""
    worst = max(samples, key=lambda one: math.inf if math.isnan(one["loss"]) else one["loss"])
    if len(samples) > 1 and not any(math.isfinite(one["loss"]) for one in samples):
        return (
            f"Every row's loss is {worst['loss']}: the weights are at fault, not a row: training diverged; lower optim.lr or "
            "raise optim.warmup_ratio"
        )
    return (
        f"The largest loss has row {worst['row']}: {worst['loss']:.4f} on {worst['supervised_tokens']} learned tokens; correct "
        "the row, or lower optim.lr"
    )
