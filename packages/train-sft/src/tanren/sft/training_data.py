"""The data of a run as samples: what is trained on, what the evaluation loss is taken on, and what became of every row."""

from __future__ import annotations

import hashlib
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tanren.common.errors import UserError
from tanren.sft.plan import Plan
from tanren.sft.sample_report import Dropped, SampleReport
from tanren.sft.samples import BATCH, SampleMaker
from tanren.sft.store import SampleStore, TrainingSamples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from tanren.common.chat import Sample
    from tanren.common.console import Bar
    from tanren.sft.rows import Selection


SAID_EVERY = 15
"""Seconds between two lines about how far it is."""


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on."""

    selection: Selection
    training: TrainingSamples
    validation: Sequence[Sample]
    """Samples for the evaluation loss; empty where the recipe keeps none."""
    report: SampleReport
    validation_report: SampleReport | None
    dropped: Dropped

    def lines(self) -> list[str]:
        """Return what became of the rows, for people."""
        lines = self.report.lines()
        if self.validation_report is not None:
            lines += [f"validation: {line}" for line in self.validation_report.lines()]
        lines += [f"  {entry}" for entry in self.dropped.listed]
        if self.dropped.rows > len(self.dropped.listed):
            lines.append(
                f"  ... and {self.dropped.rows - len(self.dropped.listed)} more: a run lists all in dropped.jsonl"
            )
        return lines

    def record(self) -> dict[str, Any]:
        """Return the account of the rows as JSON types."""
        sources = [
            {"name": source.label, "rows": count, "weight": source.weight, "commit": source.commit}
            for source, count in zip(self.selection.sources, self.selection.counts, strict=True)
        ]
        validation = {} if self.validation_report is None else {"validation": self.validation_report.record()}
        account = {
            "sources": sources,
            "rows_per_pass": list(self.selection.sizes),
            "account": list(self.selection.lines),
        }
        return account | {"training": self.report.record()} | validation

    def sha256(self) -> str:
        """Return a hash of what is trained on and validated with."""
        training = self.training.sha256()
        if not isinstance(self.validation, SampleStore):
            return training
        return hashlib.sha256(f"{training} {self.validation.sha256}".encode()).hexdigest()


def make_training_data(tokenizer: PreTrainedTokenizerBase, plan: Plan, bar: Bar | None = None) -> TrainingData:
    """Read the sources again and turn the rows that the plan selected into samples; `bar` is told how many rows are done.

    Raises UserError for a row that does not fit, unless the recipe says to drop or cut it, and where nothing is left.
    """
    selection, config, dropped = plan.selection, plan.config.data, Dropped()
    maker = SampleMaker(tokenizer, config, dropped)
    times = [array("H") for _ in selection.sizes]
    said = time.monotonic()
    for number, (source, row, by_phase) in enumerate(selection.training_rows()):
        maker.add(row, source.label)
        if bar is not None and number % BATCH == 0:
            bar.advance(number)
            if time.monotonic() - said > SAID_EVERY:
                said = time.monotonic()
                bar.report(number, f"{maker.report.tokens:,} tokens")
        for one, count in zip(times, by_phase, strict=True):
            one.append(count)
    store = maker.finish("train on")
    kept = np.frombuffer(maker.kept, dtype=bool)
    numbers = np.arange(len(store), dtype=np.uint32)
    passes = [np.repeat(numbers, np.array(one, dtype=np.uint16)[kept]) for one in times]
    for place, entries in enumerate(passes):
        if not len(entries):
            raise UserError(f"data.phases[{place}]: no sample of its rows is left:\n" + "\n".join(maker.report.lines()))
    training = TrainingSamples(store, np.concatenate(passes), tuple(len(entries) for entries in passes))
    if not selection.validation_size:
        return TrainingData(selection, training, (), maker.report, None, dropped)
    held = SampleMaker(tokenizer, config, dropped)
    for source, row in selection.validation_rows():
        held.add(row, source.label)
    validation = held.finish("validate with")
    return TrainingData(selection, training, validation, maker.report, held.report, dropped)
