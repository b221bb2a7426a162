"""What is said about a run when it ends: `summary.json`, the views of its logs, the account of what it did."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.common.console import Console
from tanren.common.run import RunDirectory, read_steps, write_csv
from tanren.grpo.config import GrpoConfig
from tanren.grpo.generations import write_generations_csv
from tanren.grpo.plan import Plan

AVERAGED = (
    "reward",
    "parse_rate",
    "accuracy",
    "regret",
    "loss",
    "truncated_share",
    "entropy",
    "log_prob_gap",
    "reference_kl",
)
"""Columns that metrics.csv has a running mean of, too."""
SPENT = ("generate", "sync", "reward", "score", "train", "other")
"""What the seconds of a step are spent on; `seconds_behind` (rollout.ahead) are no part of them."""
# Steps at both ends whose mean reward is compared: one alone is mostly chance.
ENDS = 5


def write_views(run: RunDirectory, config: GrpoConfig) -> None:
    """Write metrics.csv, raw and with running means, and generations.csv: views of the JSONL files, made anew."""
    write_csv(with_running_means(read_steps(run.metrics), config.train.ema), run.path / "metrics.csv")
    write_generations_csv(run.path)


def with_running_means(steps: Sequence[Mapping[str, Any]], weight: float) -> list[dict[str, Any]]:
    """Return the steps with a column `NAME_ema` beside each that is averaged: m = (1 - weight) m + weight x, from the first x on.

    A step without the value (no completion had a reward) leaves the mean as it is.
    """
    means: dict[str, float] = {}
    found = []
    for step in steps:
        values = dict(step)
        for name in AVERAGED:
            if name not in step:
                continue
            if step[name] is not None:
                means[name] = step[name] if name not in means else (1 - weight) * means[name] + weight * step[name]
            values[f"{name}_ema"] = means.get(name)
        found.append(values)
    return found


def make_summary(
    plan: Plan, run: RunDirectory, console: Console, status: str, begun: float, comparison: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `summary.json` records: status, work done, rewards, time by what it went to, peak memory, results."""
    steps = read_steps(run.metrics)
    tokens, seconds = (sum(step[name] for step in steps) for name in ("tokens", "seconds"))
    # ru_maxrss is KiB on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = {name: round(sum(step[f"seconds_{name}"] for step in steps), 2) for name in SPENT}
    return {
        "status": status,
        "name": plan.config.name,
        "trained": f"LoRA rank {plan.config.lora.rank} by GRPO ({plan.config.loss.kind})",
        "steps": steps[-1]["step"] if steps else 0,
        "tokens": tokens,
        "supervised_tokens": sum(step["learned_tokens"] for step in steps),
        "tokens_per_second": tokens / seconds if seconds else None,
        "first_reward": _mean([step["reward"] for step in steps[:ENDS]]),
        "last_reward": _mean([step["reward"] for step in steps[-ENDS:]]),
        "completions": sum(step["completions"] for step in steps),
        "excluded": sum(step["excluded"] for step in steps),
        "prompts": sum(step["prompts"] for step in steps),
        "updates": sum(step["updates"] for step in steps),
        "micro_batches": sum(step["micro_batches"] for step in steps),
        "account": _account(steps, spent, len(plan.rows)) if steps else [],
        "seconds": round(time.time() - begun, 1),
        "seconds_of_steps": spent,
        "seconds_by_phase": {name: round(value, 2) for name, value in console.seconds.items()},
        "peak_memory_gib": round(peak / (2**20 if sys.platform.startswith("linux") else 2**30), 2),
        "evaluation": dict(comparison),
    }


def _account(steps: Sequence[Mapping[str, Any]], spent: Mapping[str, float], prompts: int) -> list[str]:
    """Say what was done, exactly, and where the time went."""
    total = {
        name: sum(step[name] for step in steps)
        for name in ("prompts", "completions", "excluded", "updates", "micro_batches")
    }
    flat = sum(step["groups_without_signal"] for step in steps)
    whole = sum(spent.values()) or 1.0
    shares = ", ".join(
        f"{name} {value:.1f} s ({100 * value / whole:.0f} %)" for name, value in spent.items() if value >= 0.005 * whole
    )
    first, last = (_mean([step["reward"] for step in part]) for part in (steps[:ENDS], steps[-ENDS:]))
    lines = [
        f"{len(steps)} steps: {total['prompts']} prompts drawn ({total['prompts'] / prompts:.2f} times all {prompts}), "
        f"{total['completions']} completions, {total['excluded']} excluded, {flat} groups without signal, "
        f"{total['micro_batches']} micro-batches, {total['updates']} updates",
        f"where the time went: {shares}",
    ]
    if any("seconds_behind" in step for step in steps):
        behind = sum(step.get("seconds_behind", 0.0) for step in steps)
        lines.append(
            f"generated and judged while the model learned, without a wait: {behind:.1f} s; such completions are one step old"
        )
    if first is not None and last is not None:
        count = min(ENDS, len(steps))
        lines.append(f"mean reward: {first:.3f} in the first {count} steps, {last:.3f} in the last {count}")
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
