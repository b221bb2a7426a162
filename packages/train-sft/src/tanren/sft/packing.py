"""From samples to optimizer steps: which rows belong to a step, and how they share forward passes.

The whole run is laid out before it starts, from the seed alone. So the order is the same however often the run is
interrupted, and the accounting (rows, tokens, passes) is exact.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tanren.common.chat import Sample


@dataclass(frozen=True)
class MicroBatch:
    """Samples that share one forward and backward pass, laid end to end."""

    samples: tuple[Sample, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return sum(len(sample.input_ids) for sample in self.samples)


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step."""

    micro_batches: tuple[MicroBatch, ...]

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(micro_batch.tokens for micro_batch in self.micro_batches)

    @property
    def supervised(self) -> int:
        """Tokens that the model learns."""
        return sum(sample.supervised for micro_batch in self.micro_batches for sample in micro_batch.samples)


def lay_out(samples: Sequence[Sample], *, rows: int, rows_per_step: int, budget: int, seed: int) -> list[Step]:
    """Lay out `rows` rows in steps of `rows_per_step`: epoch after epoch in a fresh order, none twice within an epoch.

    `budget` is the number of tokens per micro-batch. The last step may hold fewer rows.
    """
    order: list[Sample] = []
    epoch = 0
    while len(order) < rows:
        shuffled = list(samples)
        random.Random(f"{seed}-{epoch}").shuffle(shuffled)  # noqa: S311 (an order, not a secret)
        order += shuffled
        epoch += 1
    del order[rows:]
    return [Step(pack(order[first : first + rows_per_step], budget)) for first in range(0, rows, rows_per_step)]


def pack(samples: Sequence[Sample], budget: int) -> tuple[MicroBatch, ...]:
    """Pack samples into as few micro-batches of at most `budget` tokens as first-fit-decreasing finds.

    A sample that is longer than the budget gets a micro-batch to itself.
    """
    bins: list[list[Sample]] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda sample: -len(sample.input_ids)):
        length = len(sample.input_ids)
        place = next((index for index, free in enumerate(room) if free >= length), None)
        if place is None:
            bins.append([sample])
            room.append(budget - length)
        else:
            bins[place].append(sample)
            room[place] -= length
    return tuple(MicroBatch(tuple(members)) for members in bins)
