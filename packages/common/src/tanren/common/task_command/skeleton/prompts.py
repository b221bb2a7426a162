"""How a row is asked for: the same words in training and in evaluation."""

from __future__ import annotations


def build_prompt(note: str) -> str:
    """Return the prompt of a note."""
    return f"Which order is in this note? Answer with the order alone, such as 5 x nails.\n{note}"
