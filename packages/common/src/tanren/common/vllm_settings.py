"""What is settled about vLLM before it is imported: sizes that planner and engine share."""

from __future__ import annotations

BLOCK = 16
"""Tokens whose keys and values vLLM keeps together."""
BATCHED_TOKENS = 8192
"""Prompt tokens that are read in one pass, at most."""
