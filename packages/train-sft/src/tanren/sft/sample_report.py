"""What became of the rows: counts by reason and by format, and a file that names every row that was left out."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.common.chat import Sample

# Dropped rows are told one by one up to here; the counts, and the file in the run directory, are always complete.
MOST_LISTED = 10


class Dropped:
    """Every row that was left out, on disk until there is a run directory to write it to."""

    def __init__(self) -> None:
        """Begin with none."""
        self.rows = 0
        self.listed: list[str] = []
        self._file = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115 (open as long as the run)

    def add(self, row_id: str, reason: str, tokens: int, group: str) -> None:
        """Note a row."""
        self.rows += 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append(f"row {row_id}: {tokens} tokens, {reason}")
        record = {"row": row_id, "reason": reason, "tokens": tokens, "group": group}
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def write(self, path: Path) -> None:
        """Write one JSON line for each row; no file where none was left out."""
        if not self.rows:
            return
        self._file.seek(0)
        aside = path.with_name(f".{path.name}.partial")
        with aside.open("wb") as file:
            shutil.copyfileobj(self._file, file)
        aside.replace(path)


@dataclass
class SampleReport:
    """What became of the rows of one purpose."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By reason and group: the row's format, or its source where it has none."""
    cut: Counter[str] = field(default_factory=Counter)
    """By group."""
    without_marker: int = 0
    several_markers: int = 0
    normalised: Counter[str] = field(default_factory=Counter)
    """Answers that were rewritten, by how their body was found."""

    def count(self, sample: Sample) -> None:
        """Count a sample that is kept."""
        length = len(sample.input_ids)
        self.samples += 1
        self.tokens += length
        self.supervised += sample.supervised
        self.longest = max(self.longest, length)

    def lines(self) -> list[str]:
        """Return the report for people."""
        share = 100 * self.supervised / max(1, self.tokens)
        lines = [
            f"{self.samples} samples from {self.rows} rows: {self.tokens} tokens, {self.supervised} of them learned "
            f"({share:.0f} %), longest {self.longest}"
        ]
        if self.cut:
            lines.append(f"{self.cut.total()} samples were cut to data.max_tokens{_by_group(self.cut)}")
        if self.normalised:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.normalised.most_common())
            lines.append(f"{self.normalised.total()} answers normalised (data.normalise): {kinds}")
        if self.without_marker:
            lines.append(f"{self.without_marker} rows have an answer without a marker (data.markers): learned whole")
        if self.several_markers:
            lines.append(f"{self.several_markers} rows have an answer with several lines that begin with a marker")
        for reason in dict.fromkeys(reason for reason, _ in self.dropped):
            groups = Counter({group: count for (one, group), count in self.dropped.items() if one == reason})
            lines.append(f"{groups.total()} rows dropped: {reason}{_by_group(groups)}")
        return lines

    def record(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        dropped = [{"reason": reason, "group": group, "rows": n} for (reason, group), n in self.dropped.items()]
        counts = {"cut": dict(self.cut), "normalised": dict(self.normalised), "dropped": dropped}
        return vars(self) | counts


def _by_group(counts: Counter[str]) -> str:
    """Say how many of each group there are, unless there is but one."""
    if set(counts) <= {"all"}:
        return ""
    return f" ({', '.join(f'{group} {count}' for group, count in counts.most_common())})"
