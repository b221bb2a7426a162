"""Completions of about 1 kB a second on one core: scored in three modes, and rewarded, by format.

    python benchmarks/scoring/measure.py benchmarks/scoring/results.json [--rows 200] [--seconds 2]

Answers to the pack's own large documents, between 0.7 and 1.4 kB. Of eight answers five are correct, one is in a fence, one has a wrong
value and one broken syntax. CPU seconds of one process count, not those of the wall; the best of twelve passes, each of which begins
with empty caches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tanren.common.task_contract import Row
from tasks.structured import loading, yaml_format
from tasks.structured.formats import FORMATS
from tasks.structured.task import Options, reward, rows, score_modes

_BROKEN = {
    "json": ("}", "]"),
    "yaml": (": ", ":\t*"),
    "toml": (" = ", " : "),
    "xml": ("</", "<"),
    "csv": (",", ',"x"y'),
}
"""What is put for the last of what makes a document valid."""
Work = Callable[[Sequence[str], Sequence[Row]], Any]


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=200, help="answers of each format")
    arguments = parser.parse_args()
    items = {name: answers(name, arguments.rows) for name in FORMATS}
    works: dict[str, Work] = {"scored": score_modes, "rewarded": reward}
    by_format: dict[str, dict[str, int]] = {
        name: {"bytes": round(sum(len(text.encode()) for text in texts) / len(texts))}
        | {label: round(rate(work, texts, asked)) for label, work in works.items()}
        for name, (texts, asked) in items.items()
    }
    mixed = {label: round(len(by_format) / sum(1 / values[label] for values in by_format.values())) for label in works}
    values = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "completions_per_cpu_second": by_format | {"mixed": mixed},
        "completions_per_second_in_processes": in_processes(items),
    }
    arguments.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(values, indent=1) + "\n")
    return 0


def answers(name: str, count: int) -> tuple[list[str], list[Row]]:
    """Return answers and the rows that they answer."""
    options = Options.model_validate({"formats": [name], "size": "large", "heldout_rows": 12 * count})
    asked = [row for row in rows("heldout", options) if 700 <= len(row.reference.encode()) <= 1400][:count]
    assert len(asked) == count, f"{name}: {len(asked)} rows of about 1 kB, {count} are needed"
    return [answer(row, number) for number, row in enumerate(asked)], asked


def answer(row: Row, number: int) -> str:
    """Return the reference, or what the number makes of it."""
    text = row.reference
    match number % 8:
        case 5:
            return f"```{row.group}\n{text}\n```"
        case 6:
            return text.replace("a", "b", 1)
        case 7:
            head, _, tail = text.rpartition(_BROKEN[row.group][0])
            return head + _BROKEN[row.group][1] + tail
    return text


def rate(work: Work, texts: Sequence[str], asked: Sequence[Row]) -> float:
    """Return completions per CPU second, the best of twelve passes."""
    best = float("inf")
    for _ in range(12):
        for kept in (loading.read_strictly, loading._read_as_usual, yaml_format._resolved):
            kept.cache_clear()
        begun = time.process_time()
        work(texts, asked)
        best = min(best, time.process_time() - begun)
    return len(texts) / best


def in_processes(items: dict[str, tuple[list[str], list[Row]]]) -> dict[str, int]:
    """Return completions per second of the wall, scored by one process and by one for each core, starting not counted."""
    texts = [text for part in items.values() for text in part[0]]
    asked = [row for part in items.values() for row in part[1]]
    rates = {}
    for workers in sorted({1, os.cpu_count() or 1}):
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(score_modes, [[]] * workers, [[]] * workers))
            begun = time.perf_counter()
            parts = [(texts[part::workers], asked[part::workers]) for part in range(workers)]
            list(pool.map(score_modes, *zip(*parts, strict=True)))
            rates[str(workers)] = round(len(texts) / (time.perf_counter() - begun))
    return rates


def cpu_name() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
