"""From samples to optimizer steps: which rows belong to a step, and how they share forward passes.

The whole run is laid out before it starts, from the lengths of the samples and the seed alone. So the order is the same
however often the run is interrupted, and the accounting (rows, tokens, passes) is exact. What is kept of it are numbers
of samples; a step's samples are read when it is asked for.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np

from tanren.common.chat import Sample
from tanren.common.first_fit import first_fit
from tanren.sft.store import TrainingSamples

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


class Steps(Sequence[Step]):
    """The steps of a run: numbers of entries of `samples`, from which a step is read when it is asked for."""

    def __init__(self, samples: TrainingSamples, steps: Iterable[Sequence[Sequence[int]]]) -> None:
        """Take each step as its micro-batches, each of them as the entries in it."""
        self.samples = samples
        entries, ends, step_ends = array("I"), array("Q", [0]), array("Q", [0])
        for micro_batches in steps:
            for members in micro_batches:
                entries.extend(members)
                ends.append(len(entries))
            step_ends.append(len(ends) - 1)
        self._entries = np.array(entries, dtype=np.uint32)
        self._ends = np.array(ends, dtype=np.int64)
        self.first_micro_batches = np.array(step_ends[:-1], dtype=np.int64)
        """The first micro-batch of each step, (steps,), counted through the run."""
        self._step_ends = step_ends

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._step_ends) - 1

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        """Read one step, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        members = self.members(range(len(self))[index])
        return Step(tuple(MicroBatch(tuple(self.samples[entry] for entry in one)) for one in members))

    def members(self, index: int) -> list[list[int]]:
        """Return the entries in each micro-batch of a step."""
        return [self.micro_batch(number) for number in range(self._step_ends[index], self._step_ends[index + 1])]

    def micro_batch(self, number: int) -> list[int]:
        """Return the entries in a micro-batch, counted through the run."""
        members: list[int] = self._entries[self._ends[number] : self._ends[number + 1]].tolist()
        return members

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of each micro-batch, (micro-batches,)."""
        return self._sums(self.samples.lengths)

    @property
    def step_tokens(self) -> NDArray[np.int64]:
        """Tokens of each step, (steps,)."""
        return np.add.reduceat(self.tokens, self.first_micro_batches)

    @cached_property
    def supervised(self) -> NDArray[np.int64]:
        """Learned tokens of each micro-batch, (micro-batches,)."""
        return self._sums(self.samples.supervised)

    def _sums(self, values: NDArray[np.uint32]) -> NDArray[np.int64]:
        return np.add.reduceat(values[self._entries].astype(np.int64), self._ends[:-1])


def lay_out(
    samples: Sequence[Sample], *, rows: int | Sequence[int], rows_per_step: int, budget: int, seed: int
) -> Steps:
    """Lay out `rows` rows in steps of `rows_per_step`: epoch after epoch in a fresh order, none twice within an epoch.

    `budget` is the number of tokens per micro-batch. The last step may hold fewer rows. With samples in phases, `rows`
    has a number for each; a phase begins with a step of its own.
    """
    trained = TrainingSamples.of(samples)
    counts = [rows] if isinstance(rows, int) else list(rows)
    return Steps(trained, _steps(trained, counts, rows_per_step, budget, seed))


def _steps(
    samples: TrainingSamples, rows: Sequence[int], rows_per_step: int, budget: int, seed: int
) -> Iterator[list[list[int]]]:
    lengths = array("I", samples.lengths.tobytes())
    first = 0
    for phase, (size, count) in enumerate(zip(samples.sizes, rows, strict=True)):
        order = _order(first, size, count, f"{seed}-{phase}" if phase else f"{seed}")
        for begin in range(0, count, rows_per_step):
            chosen = order[begin : begin + rows_per_step]
            packed = first_fit([lengths[entry] for entry in chosen], budget)
            yield [[chosen[place] for place in members] for members in packed]
        first += size


def _order(first: int, size: int, rows: int, key: str) -> array[int]:
    """Return `rows` of the entries from `first` to `first + size`, epoch after epoch."""
    order = array("I")
    epoch = 0
    while len(order) < rows:
        shuffled = array("I", range(first, first + size))
        random.Random(f"{key}-{epoch}").shuffle(shuffled)  # noqa: S311 (an order, not a secret)
        order += shuffled
        epoch += 1
    del order[rows:]
    return order


def pack(samples: Sequence[Sample], budget: int) -> tuple[MicroBatch, ...]:
    """Pack samples into micro-batches of at most `budget` tokens (see `first_fit`)."""
    packed = first_fit([len(sample.input_ids) for sample in samples], budget)
    return tuple(MicroBatch(tuple(samples[place] for place in members)) for members in packed)
