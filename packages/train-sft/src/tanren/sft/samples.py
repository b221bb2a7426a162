"""Rows to samples: normalised, rendered, tokenised, masked; what does not fit is an error or is dropped with a report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from tanren.common.chat import Learned, Sample, render_row, tokenise
from tanren.common.data import payload_format
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.sft.config import DataConfig
from tanren.sft.normalise import NORMALISERS, NotNormalisableError
from tanren.sft.sample_report import Dropped, SampleReport
from tanren.sft.store import SampleStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows tokenised together: from 16 on the calls cost next to nothing.
BATCH = 64


def make_samples(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], config: DataConfig
) -> tuple[SampleStore, SampleReport]:
    """Turn rows of one source into samples.

    Raises UserError for a row that does not fit, unless the recipe says to drop or cut it, and where none is left.
    """
    maker = SampleMaker(tokenizer, config, Dropped())
    for row in rows:
        maker.add(row, "all")
    return maker.finish("train on"), maker.report


class SampleMaker:
    """Makes samples of rows that come one after the other; they are kept in a store, not in memory."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DataConfig, dropped: Dropped) -> None:
        """Begin with no row; what is left out is written to `dropped`."""
        self._tokenizer, self._config, self._dropped = tokenizer, config, dropped
        self._learned = Learned(config.learn_turns, config.learn_answer, tuple(config.markers))
        self._waiting: list[tuple[Row, str]] = []
        self.report = SampleReport()
        self.store = SampleStore()
        self.kept = bytearray()
        """For each row in its order whether it became a sample."""

    def add(self, row: Row, source: str) -> None:
        """Take a row of a source."""
        self._waiting.append((row, source))
        if len(self._waiting) == BATCH:
            self._make()

    def finish(self, purpose: str) -> SampleStore:
        """Return the store. Raises UserError if no sample is left."""
        self._make()
        if not len(self.store):
            raise UserError(f"no sample is left to {purpose}:\n" + "\n".join(self.report.lines()))
        return self.store

    def _make(self) -> None:
        if not self._waiting:
            return
        wheres = [f"row {row.id}" for row, _ in self._waiting]
        rows = [self._normalised(row, where) for (row, _), where in zip(self._waiting, wheres, strict=True)]
        texts = [
            render_row(self._tokenizer, row, self._learned, where) for row, where in zip(rows, wheres, strict=True)
        ]
        samples = tokenise(self._tokenizer, texts, [row.id for row in rows], wheres)
        for row, sample, (_, source) in zip(rows, samples, self._waiting, strict=True):
            fitting = self._fitting(sample, row, source)
            self.kept.append(fitting is not None)
            self.report.rows += 1
            if fitting is not None:
                self.store.add(fitting)
                self.report.count(fitting)
        self._waiting = []

    def _normalised(self, row: Row, where: str) -> Row:
        """Rewrite the answers that are learned."""
        if self._config.normalise == "none":
            return row
        if row.segments:
            raise UserError(f"{where} is plain text in segments: data.normalise rewrites answers; remove it")
        try:
            answer = self._rewritten(row.reference)
            turns = (
                Message(turn.role, self._rewritten(turn.content))
                if turn.role == "assistant" and self._config.learn_turns == "all"
                else turn
                for turn in row.prompt
            )
            return replace(row, prompt=tuple(turns), reference=answer)
        except NotNormalisableError as error:
            raise UserError(f"{where}: {error}; correct the row, or set data.normalise to none") from None

    def _rewritten(self, answer: str) -> str:
        found = NORMALISERS[self._config.normalise](answer, self._config.markers)
        self.report.normalised[found.kind] += 1
        return found.text

    def _fitting(self, sample: Sample, row: Row, source: str) -> Sample | None:
        """Return the sample as it is trained on, or None if it is left out."""
        config, where, length = self._config, f"row {row.id}", len(sample.input_ids)
        if self._learned.answer != "whole" and not self._has_markers(sample, row, source):
            return None
        group = payload_format(row) or source
        if length > config.max_tokens:
            if config.too_long == "error":
                raise UserError(
                    f"{where} is too long: {length} tokens, data.max_tokens is {config.max_tokens}; raise it, or set "
                    "data.too_long to drop, cut-left or cut-right (`tanren data lengths` says how many are longer)"
                )
            if config.too_long == "drop":
                self._drop(f"longer than {config.max_tokens} tokens", sample, group)
                return None
            sample = _cut(sample, config.max_tokens, left=config.too_long == "cut-left")
            self.report.cut[group] += 1
        if not sample.supervised:
            if config.fully_masked == "error":
                cut = f" after {config.too_long} to {config.max_tokens} tokens" if length > config.max_tokens else ""
                raise UserError(
                    f"{where} has no token to learn{cut}: all {len(sample.input_ids)} labels are masked; raise "
                    "data.max_tokens, correct the row, or set data.fully_masked to drop"
                )
            self._drop("no token to learn (every label is masked)", sample, group, length)
            return None
        return sample

    def _has_markers(self, sample: Sample, row: Row, source: str) -> bool:
        """Count what the markers of a row are; return whether it is trained on."""
        if 0 not in sample.markers:
            self.report.several_markers += any(count > 1 for count in sample.markers)
            return True
        if self._config.no_marker == "error":
            raise UserError(
                f"row {row.id}: an answer has no line that begins with one of {', '.join(self._config.markers)}; add its marker "
                "to data.markers, or set data.no_marker to whole or drop"
            )
        if self._config.no_marker == "drop":
            self._drop("an answer without a marker", sample, source)
            return False
        self.report.without_marker += 1
        return True

    def _drop(self, reason: str, sample: Sample, group: str, length: int | None = None) -> None:
        tokens = len(sample.input_ids) if length is None else length
        self.report.dropped[reason, group] += 1
        self._dropped.add(sample.row_id, reason, tokens, group)


def _cut(sample: Sample, length: int, *, left: bool) -> Sample:
    kept = slice(-length, None) if left else slice(length)
    return replace(sample, input_ids=sample.input_ids[kept], loss_mask=sample.loss_mask[kept])
