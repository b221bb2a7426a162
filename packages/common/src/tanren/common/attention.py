"""Attention over packed samples: every sample attends to itself alone, and nothing is padded.

transformers' own kernels tell packed samples apart only under names that they know; others would attend across
samples with no word said. So packing has an attention of its own name here, with a mask function that refuses padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEGMENTS = "tanren_segments"


@dataclass(frozen=True)
class AttentionChoice:
    """The kernel, why it was taken, and whether samples may share a pass."""

    kernel: str
    reason: str
    packs: bool


def choose_training_attention(model: PreTrainedModel) -> AttentionChoice:
    """Choose how packed samples are kept apart in training.

    One SDPA call per sample is exact on every device and needs no mask. Models whose attention takes more than
    queries, keys and values (sinks, soft caps, sliding windows) keep their own attention, one sample per pass.
    """
    config = model.config.get_text_config()
    extras = []
    if getattr(config, "model_type", "") == "gpt_oss":
        extras.append("attention sinks")
    if getattr(config, "attn_logit_softcapping", None):
        extras.append("soft-capped scores")
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        extras.append("sliding windows")
    if extras:
        own = str(model.config._attn_implementation)
        return AttentionChoice(own, f"{config.model_type} has {' and '.join(extras)}: one sample per pass", packs=False)
    return AttentionChoice(SEGMENTS, "one causal SDPA call per packed sample: exact, no padding, no mask", packs=True)


@contextmanager
def inference_attention(model: PreTrainedModel) -> Iterator[None]:
    """Generate with an attention that knows padding and caches: SDPA, where training used the packed one."""
    before = model.config._attn_implementation
    if before == SEGMENTS:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if before == SEGMENTS:
            model.set_attn_implementation(SEGMENTS)


def segments_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each segment.

    `query` is (1, heads, tokens, head size), `key` and `value` (1, key-value heads, tokens, head size); `segments`
    holds the lengths of the packed samples, in order; they sum to `tokens`. Returns (1, tokens, heads, head size).
    """
    del module
    assert attention_mask is None, "packed attention takes segment lengths, not a mask"
    assert segments is not None, "packed attention needs the segment lengths"
    assert (1, sum(segments)) == (query.shape[0], query.shape[2]), (query.shape, segments)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    parts = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        for q, k, v in zip(*(tensor.split(segments, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> None:
    """Make no mask; a padded batch is refused, for this attention would read its padding as text."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(f"{SEGMENTS} attends to packed samples; found a padded batch: use 'sdpa' for it")


AttentionInterface.register(SEGMENTS, segments_attention)
AttentionMaskInterface.register(SEGMENTS, _no_mask)
