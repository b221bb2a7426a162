"""What is said about a run when it ends: `summary.json`, the tracker's final numbers, the last line."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

from tanren.common.console import Console
from tanren.common.run import RunDirectory, read_steps
from tanren.sft.plan import Plan


def make_summary(
    plan: Plan,
    run: RunDirectory,
    console: Console,
    status: str,
    begun: float,
    comparison: Mapping[str, Any],
    training_memory: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what `summary.json` records: status, work done, speed, time by phase, peak memory, results.

    `training_memory` is the plan's memory beside what was measured on a GPU.
    """
    steps = read_steps(run.metrics)
    tokens = sum(step["tokens"] for step in steps)
    seconds = sum(step["seconds"] for step in steps)
    # ru_maxrss is KiB on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "status": status,
        "name": plan.config.name,
        "trained": _trained(plan),
        "steps": steps[-1]["step"] if steps else 0,
        "tokens": tokens,
        "supervised_tokens": sum(step["supervised_tokens"] for step in steps),
        "tokens_per_second": tokens / seconds if seconds else None,
        "first_loss": steps[0]["loss"] if steps else None,
        "last_loss": steps[-1]["loss"] if steps else None,
        "seconds": round(time.time() - begun, 1),
        "seconds_by_phase": {name: round(value, 2) for name, value in console.seconds.items()},
        "peak_memory_gib": round(peak / (2**20 if sys.platform.startswith("linux") else 2**30), 2),
        "training_memory": dict(training_memory or {}),
        "evaluation": dict(comparison),
    }


def _trained(plan: Plan) -> str:
    """Say what was trained: all weights, or an adapter and on what."""
    config = plan.config
    if config.train.method == "full":
        return "all weights"
    kind = "DoRA" if config.lora.dora else "LoRA"
    return f"{kind} rank {config.lora.rank}" + (" (rsLoRA scaling)" if config.lora.rslora else "")


def final_numbers(comparison: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tracker keeps of an evaluation: the pooled shares of each candidate."""
    if not comparison:
        return {}
    return {
        f"heldout_{metric}_{name}": values["by_group"]["all"][metric]["value"]
        for name, values in comparison["candidates"].items()
        for metric in ("valid", "correct")
    }


def verdict_line(comparison: Mapping[str, Any]) -> str:
    """Say in one line whether training helped, judged by the pooled paired difference."""
    difference = comparison["difference"]["all"]["correct"]
    low, high = 100 * difference["low"], 100 * difference["high"]
    said = "it learned" if low > 0 else "it got worse" if high < 0 else "no difference that the items could show"
    return f"content correct: {100 * difference['value']:+.0f} points [{low:+.0f} to {high:+.0f}] on {difference['n']} held-out items: {said}"
