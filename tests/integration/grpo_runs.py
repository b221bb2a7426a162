"""What the tests of train-grpo share: a task that a tiny model learns in seconds, and the numbers that must repeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACK = '''\
"""Answer in small letters: the reward is their share; what holds a # cannot be judged."""

from tanren.common.task_contract import Message, Parsed, Row, TaskOptions, Verdict


class Options(TaskOptions):
    """None."""


def rows(split, options):
    first = 0 if split == "train" else 100
    return [Row(f"{split}-{n}", (Message("user", f"say {n}"),), "a", "all", "a") for n in range(first, first + 12)]


def parse(completion, row):
    if not completion:
        return Parsed(Verdict.ABSENT, error="nothing was written")
    return Parsed(Verdict.CORRECT if completion.islower() else Verdict.WRONG, completion)


def reward(completions, rows):
    return [None if "#" in one else sum("a" <= c <= "z" for c in one) / max(1, len(one)) for one in completions]
'''
DESCRIPTION = """\
name = "letters"
title = "Small letters"
description = "Answer in small letters."
licence = "Apache-2.0"
group = "length"
"""
RECIPE = """
name = "letters"

[model]
name = "builtin:tiny-qwen3"
dtype = "float32"
threads = 1

[task]
name = "./letters"

# A tiny random model has next to no logits of its own: an adapter on its head can move them.
[lora]
target_modules = ["q_proj", "v_proj", "lm_head"]

[rollout]
prompts_per_step = 4
completions_per_prompt = 8
max_new_tokens = 6

[optim]
lr = 0.015
schedule = "constant"
warmup_ratio = 0

[train]
steps = 16

[checkpoint]
every_steps = 0

[evaluation]
enabled = false

[tracking]
mlflow = false
"""
TIMES = ("seconds", "time")


def write_work(folder: Path) -> None:
    """Write the recipe `letters.toml` and its task pack."""
    pack = folder / "letters"
    pack.mkdir()
    (pack / "task.toml").write_text(DESCRIPTION, encoding="utf-8")
    (pack / "task.py").write_text(PACK, encoding="utf-8")
    (folder / "letters.toml").write_text(RECIPE, encoding="utf-8")


def numbers_of(run: Path) -> list[dict[str, Any]]:
    """Return the numbers of each step that must repeat."""
    from tanren.common.run import read_steps

    return [
        {name: value for name, value in step.items() if not name.startswith(TIMES)}
        for step in read_steps(run / "metrics.jsonl")
    ]


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Return the completions of a run, of steps that were done twice the later ones."""
    from tanren.grpo.generations import read_generations

    return list(read_generations(run))


def summary_of(run: Path) -> dict[str, Any]:
    """Return what summary.json says."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found
