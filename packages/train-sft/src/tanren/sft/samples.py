"""Rows to samples: rendered, tokenised, masked; what does not fit is an error or is dropped with a report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tanren.common.chat import Learned, Sample, make_sample
from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.sft.config import DataConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Dropped rows are listed one by one up to here; the counts are always complete.
MOST_LISTED = 10


@dataclass
class SampleReport:
    """What became of the rows."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    without_marker: int = 0
    several_markers: int = 0
    listed: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report for people."""
        share = 100 * self.supervised / max(1, self.tokens)
        lines = [
            f"{self.samples} samples from {self.rows} rows: {self.tokens} tokens, {self.supervised} of them learned "
            f"({share:.0f} %), longest {self.longest}"
        ]
        if self.cut:
            lines.append(f"{self.cut} samples were cut to data.max_tokens")
        if self.without_marker:
            lines.append(f"{self.without_marker} rows have an answer without a marker (data.markers): learned whole")
        if self.several_markers:
            lines.append(f"{self.several_markers} rows have an answer with several lines that begin with a marker")
        lines += [f"{count} rows dropped: {reason}" for reason, count in self.dropped.items()]
        return lines + [f"  {entry}" for entry in self.listed]


def make_samples(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], config: DataConfig
) -> tuple[list[Sample], SampleReport]:
    """Turn rows into samples. Raises UserError for a row that does not fit, unless the recipe says to drop or cut it."""
    samples: list[Sample] = []
    report = SampleReport(rows=len(rows))
    learned = Learned(config.learn_turns, config.learn_answer, tuple(config.markers))
    for row in rows:
        where = f"row {row.id}"
        sample = make_sample(tokenizer, row.messages, row.id, where, learned)
        if learned.answer != "whole" and not _has_markers(sample, config, where, report):
            continue
        length = len(sample.input_ids)
        if length > config.max_tokens:
            if config.too_long == "error":
                raise UserError(
                    f"{where} is too long: {length} tokens, data.max_tokens is {config.max_tokens}; raise it, or set "
                    "data.too_long to drop, cut-left or cut-right"
                )
            if config.too_long == "drop":
                _drop(report, f"longer than {config.max_tokens} tokens", f"{where}: {length} tokens")
                continue
            sample = _cut(sample, config.max_tokens, left=config.too_long == "cut-left")
            report.cut += 1
        if not sample.supervised:
            if config.fully_masked == "error":
                cut = f" after {config.too_long} to {config.max_tokens} tokens" if length > config.max_tokens else ""
                raise UserError(
                    f"{where} has no token to learn{cut}: all {len(sample.input_ids)} labels are masked; raise "
                    "data.max_tokens, correct the row, or set data.fully_masked to drop"
                )
            _drop(report, "no token to learn (every label is masked)", where)
            continue
        samples.append(sample)
    if not samples:
        raise UserError("no sample is left to train on:\n" + "\n".join(report.lines()))
    report.samples = len(samples)
    report.tokens = sum(len(sample.input_ids) for sample in samples)
    report.supervised = sum(sample.supervised for sample in samples)
    report.longest = max(len(sample.input_ids) for sample in samples)
    return samples, report


def _has_markers(sample: Sample, config: DataConfig, where: str, report: SampleReport) -> bool:
    """Count what the markers of a row are; return whether it is trained on."""
    if 0 not in sample.markers:
        report.several_markers += any(count > 1 for count in sample.markers)
        return True
    if config.no_marker == "error":
        raise UserError(
            f"{where}: an answer has no line that begins with one of {', '.join(config.markers)}; add its marker to "
            "data.markers, or set data.no_marker to whole or drop"
        )
    if config.no_marker == "drop":
        _drop(report, "an answer without a marker", where)
        return False
    report.without_marker += 1
    return True


def samples_sha256(samples: Sequence[Sample]) -> str:
    """Return a hash of what is trained on: every token and every mask, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.input_ids, sample.loss_mask)).encode())
    return digest.hexdigest()


def _cut(sample: Sample, length: int, *, left: bool) -> Sample:
    kept = slice(-length, None) if left else slice(length)
    return replace(sample, input_ids=sample.input_ids[kept], loss_mask=sample.loss_mask[kept])


def _drop(report: SampleReport, reason: str, entry: str) -> None:
    report.dropped[reason] += 1
    if len(report.listed) < MOST_LISTED:
        report.listed.append(entry)
