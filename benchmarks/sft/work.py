"""The work that every contender does: a model of real shape with random weights, and rows of log-normal lengths."""

from __future__ import annotations

import json
import random
from pathlib import Path

SHAPES = Path(__file__).parent.parent / "memory" / "shapes"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 8, 16
LR = 1e-4
MEDIAN, SIGMA, LEAST, MOST = 620, 0.55, 64, 2048
"""Tokens of a row: log-normal, as instruction data are, cut at both ends."""
ROWS_PER_STEP = 16
AROUND = 24
"""Tokens that the template and the question add to an answer."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lengths(rows: int, seed: int = 0) -> list[int]:
    """Return the tokens of each row."""
    generator = random.Random(seed)  # noqa: S311 (lengths, not secrets)
    drawn = (round(MEDIAN * 2.718281828 ** generator.gauss(0, SIGMA)) for _ in range(rows))
    return [min(MOST, max(LEAST, length)) for length in drawn]


def write_rows(path: Path, sizes: list[int], seed: int = 0) -> None:
    """Write conversations of these many tokens, one letter each: the tokenizer knows single bytes."""
    generator = random.Random(seed)  # noqa: S311
    with path.open("w", encoding="utf-8") as file:
        for size in sizes:
            answer = "".join(generator.choices(LETTERS, k=size - AROUND))
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def write_model(folder: Path, shape: str) -> None:
    """Save a model of a shape with random weights and a byte-level tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tanren.common.models.tiny import tiny_tokenizer

    values = json.loads((SHAPES / f"{shape}.json").read_text(encoding="utf-8"))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
