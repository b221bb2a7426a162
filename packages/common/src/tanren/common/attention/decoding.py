"""Attention of one new token of each row over its cache, on a CPU: the heads that share keys are one product.

torch's kernel for the CPU reads keys and values that were first copied once for each query head, and works one query at a
time: with 24 rows of 100 tokens a quarter of SmolLM2's decoding step (benchmarks/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "tanren_grouped"


@contextmanager
def grouped_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use it where the model would decode with transformers' `sdpa` on a CPU; give the model its own back."""
    before = model.config._attn_implementation
    changes = before == "sdpa" and model.device.type == "cpu"
    if changes:
        model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        if changes:
            model.set_attn_implementation(before)


def attend_grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Return the attention of one token of each row, (rows, 1, heads, value size).

    `query` is (rows, heads, 1, head size), `key` and `value` (rows, key-value heads, tokens, head size); `mask`
    (rows, 1, 1, tokens) is true where a token may be seen, or is added to the scores. Scores are float32.
    """
    rows, heads, _, size = query.shape
    shared, tokens = key.shape[1], key.shape[2]
    grouped = query.reshape(rows * shared, heads // shared, size)
    scores = (grouped @ key.flatten(0, 1).transpose(1, 2)).view(rows, heads, tokens).float() * scale
    if mask is not None:
        mask = mask[:, 0, :, :tokens]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1).to(value.dtype).view(rows * shared, heads // shared, tokens)
    return (weights @ value.flatten(0, 1)).view(rows, 1, heads, value.shape[-1])


def _interface(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: prompts, and whatever else it is given, go to its own `sdpa`."""
    if query.shape[2] != 1 or others.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_grouped(query, key, value, attention_mask, scale), None


AttentionInterface.register(_NAME, _interface)
AttentionMaskInterface.register(_NAME, sdpa_mask)
