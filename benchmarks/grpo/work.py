"""The work that every contender does: a model of real shape with random weights, prompts of about 800 tokens, a reward."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.sft.work import LETTERS

RANK, ALPHA = 8, 16
LR = 1e-5
PROMPTS_PER_STEP, COMPLETIONS = 4, 16
PROMPT_TOKENS, NEW_TOKENS = 800, 512
AROUND = 24
"""Tokens that the template adds to a question."""
WORDS = 151_936
REWARD = '''\
"""How often a completion has the letter w: any deterministic number with some spread will do."""


def reward(completions, rows):
    return [completion.count("w1") / max(1, completion.count("w")) for completion in completions]
'''


def write_prompts(path: Path, count: int, seed: int = 0) -> None:
    """Write prompts of about PROMPT_TOKENS tokens, one letter each: the tokenizer has no merges."""
    generator = random.Random(seed)  # noqa: S311 (letters, not secrets)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = "".join(generator.choices(LETTERS, k=PROMPT_TOKENS - AROUND))
            file.write(json.dumps({"id": f"prompt-{number}", "prompt": text}) + "\n")


def write_model(folder: Path, shape: str) -> None:
    """Save a model of a shape with random weights, and a tokenizer whose every word is text, as a real one's nearly all are.

    With words that are broken characters, whoever turns tokens into text as they come would be slowed by them alone.
    """
    from benchmarks.sft import work
    from tanren.common.models.tiny import tiny_tokenizer

    work.write_model(folder, shape)
    tiny_tokenizer(WORDS).save_pretrained(folder)
