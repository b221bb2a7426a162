"""Rows to laid-out steps, on one core: tokens per CPU second, and whether memory stays flat from 10,000 rows to 1,000,000.

    python benchmarks/data/measure.py benchmarks/data/results.json [--sizes 10000 100000] [--kinds real]

Two kinds of rows: `real` are those of `../shared/data/sft` where that is there, else of the task pack structured, repeated,
each with an id of its own; `short` are sums of two numbers, so that a million of them can be waited for. Each case is a process
of its own on one CPU: it reads a JSONL file twice, as train-sft does (count and check; then render, tokenise, mask, store),
lays out two epochs of 16 rows a step, and reads the first and the last hundred steps back.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "sft"
SIZES = {"real": (10_000, 100_000), "short": (10_000, 100_000, 1_000_000)}
MODEL = "builtin:smollm2-135m"
"""Its tokenizer is an ordinary byte-level BPE of 49,152 words."""


def main() -> int:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="*", type=int, help="only these")
    parser.add_argument("--kinds", nargs="*", choices=list(SIZES), default=list(SIZES), help="only these")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measured(Path(arguments.child))) + "\n")
        return 0
    cases = []
    for kind in arguments.kinds:
        for size in arguments.sizes or SIZES[kind]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{kind}.jsonl"
                write_rows(path, kind, size)
                case = {"rows": kind, "number": size, "file_mib": round(path.stat().st_size / 2**20, 1)}
                cases.append(case | in_a_process(path))
            sys.stderr.write(json.dumps(cases[-1]) + "\n")
    values = {"machine": machine(), "tokenizer": MODEL, "real_rows_from": source_of_real(), "cases": cases}
    arguments.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(table(cases)) + "\n")
    return 0


def measured(path: Path) -> dict[str, Any]:
    """Do what train-sft does with the rows of a file; return seconds, tokens and memory (MiB)."""
    from tanren.common.config import Loaded
    from tanren.common.models.load import load_tokenizer
    from tanren.sft.config import SftConfig
    from tanren.sft.plan import make_plan
    from tanren.sft.training_data import make_training_data

    config = SftConfig.model_validate(
        {
            "model": {"name": MODEL},
            "data": {"file": str(path), "max_tokens": 2048, "too_long": "drop"},
            "train": {"epochs": 2, "rows_per_step": 16},
            "evaluation": {"enabled": False},
        }
    )
    clock = Clock()
    plan = make_plan(Loaded(config, {"data.file": "the benchmark"}, None))
    clock.lap("count_and_check")
    tokenizer = load_tokenizer(plan.source)
    base = peak_mib()
    clock.lap("load_tokenizer")
    data = make_training_data(tokenizer, plan)
    clock.lap("render_tokenise_mask_store")
    steps = plan.lay_out(data.training, 8192)
    clock.lap("lay_out")
    read = sum(step.tokens for step in [*steps[:100], *steps[-100:]])
    clock.lap("read_back")
    tokens, cpu = data.report.tokens, clock.cpu
    making = cpu["render_tokenise_mask_store"] + cpu["lay_out"]
    return {
        "samples": data.report.samples,
        "tokens": tokens,
        "dropped": data.dropped.rows,
        "steps": len(steps),
        "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
        "wall_seconds": {name: round(value, 2) for name, value in clock.wall.items()},
        "tokens_per_cpu_second": round(tokens / making),
        "tokens_per_cpu_second_with_counting": round(tokens / (making + cpu["count_and_check"])),
        "read_back_tokens_per_cpu_second": round(read / cpu["read_back"]),
        "peak_mib_before_samples": base,
        "peak_mib": peak_mib(),
    }


class Clock:
    """Seconds of each part: of this process's CPU, which others on the machine do not lengthen much, and of the wall."""

    def __init__(self) -> None:
        """Start."""
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self._last = time.process_time(), time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.process_time(), time.perf_counter()
        self.cpu[name], self.wall[name] = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now


def in_a_process(path: Path) -> dict[str, Any]:
    """Measure in a fresh process on one CPU."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    cpu = max(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, __file__, "-", "--child", path],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_rows(path: Path, kind: str, count: int) -> None:
    """Write so many rows as JSON lines."""
    rows = short_rows() if kind == "short" else cycle(real_rows())
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(islice(rows, count)):
            file.write(json.dumps({"id": number, **row}, ensure_ascii=False) + "\n")


def short_rows() -> Iterator[dict[str, Any]]:
    """Yield sums of two numbers, no two of them the same."""
    number = 0
    while True:
        question, answer = f"What is {number} plus {number % 97}?", f"It is {number + number % 97}."
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        number += 1


def real_rows() -> list[dict[str, Any]]:
    """Return the rows of the real files, or of the task pack."""
    from tanren.common.data import Source, read_rows
    from tanren.common.task_packs import load_pack

    if REAL.is_dir():
        rows = [row for name in source_of_real() for row in read_rows(Source(str(REAL / name)))]
    else:
        rows = load_pack("structured", {"train_rows": 4000}).rows("train")
    return [{"messages": [{"role": turn.role, "content": turn.content} for turn in row.messages]} for row in rows]


def source_of_real() -> list[str]:
    """Return the names of the real files, or the task pack's."""
    return sorted(path.name for path in REAL.iterdir()) if REAL.is_dir() else ["pack:structured"]


def peak_mib() -> float:
    """Return the largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)  # KiB on Linux


def machine() -> dict[str, Any]:
    """Say what it ran on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"cpu": name, "cores_used": 1, "python": platform.python_version()}


def table(cases: list[dict[str, Any]]) -> list[str]:
    """Return the results for people."""
    lines = [
        f"{'rows':<7}{'number':>9}{'tokens':>12}{'tokens/CPU s':>14}{'count s':>9}{'make s':>9}{'lay out s':>10}{'peak MiB':>10}"
    ]
    for case in cases:
        cpu = case["cpu_seconds"]
        head = f"{case['rows']:<7}{case['number']:>9}{case['tokens']:>12}{case['tokens_per_cpu_second']:>14}"
        parts = f"{cpu['count_and_check']:>9}{cpu['render_tokenise_mask_store']:>9}{cpu['lay_out']:>10}{case['peak_mib']:>10}"
        lines += [head + parts]
    return lines


if __name__ == "__main__":
    sys.exit(main())
