"""One family of packed samples after the other: on any device, in any precision, with everything that a model may ask for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import dropout, scaled_dot_product_attention

from tanren.common.attention._packing import Family, Packing, Scores

_Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Scores, Family], torch.Tensor]


def sdpa_by_sample(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scores: Scores
) -> torch.Tensor:
    """One SDPA call per sample; sinks and soft-capped scores, which SDPA does not know, are written out."""
    written_out = scores.sinks is not None or scores.softcap
    return _by_sample(_written_out if written_out else _sdpa, query, key, value, packing, scores)


def eager_by_sample(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scores: Scores
) -> torch.Tensor:
    """The softmax written out, in float32: the plain computation, to compare with and to look into."""
    return _by_sample(_written_out, query, key, value, packing, scores)


def _by_sample(
    attend: _Attend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scores: Scores,
) -> torch.Tensor:
    tokens = [family.tokens for family in packing.families]
    samples = zip(*(tensor.split(tokens, dim=2) for tensor in (query, key, value)), packing.families, strict=True)
    parts = [attend(q, k, v, scores, family) for q, k, v, family in samples]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores, family: Family) -> torch.Tensor:
    tokens, repeats = query.shape[2], query.shape[1] // key.shape[1]
    # CUDA's memory-efficient kernel (float32, and GPUs before Ampere) takes no grouped heads; without it SDPA would
    # write the whole square of scores. The CPU's kernel takes them.
    grouped = repeats > 1 and not query.is_cuda
    if repeats > 1 and not grouped:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    masked = 0 < scores.window < tokens or len(family.lengths) > 1
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_seen(family, scores.window, query.device) if masked else None,
        dropout_p=scores.dropout,
        is_causal=not masked,
        scale=scores.scale,
        enable_gqa=grouped,
    )


def _written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores, family: Family
) -> torch.Tensor:
    _, heads, tokens, size = query.shape
    groups = key.shape[1]
    grouped = query.reshape(groups, heads // groups, tokens, size)  # a key-value head with the heads that share it
    raw = (grouped @ key[0].unsqueeze(1).transpose(2, 3)).float() * scores.scale
    if scores.softcap:
        raw = scores.softcap * torch.tanh(raw / scores.softcap)
    raw = raw.masked_fill(~_seen(family, scores.window, query.device), -torch.inf)
    if scores.sinks is not None:
        sinks = scores.sinks.float().reshape(groups, heads // groups, 1, 1).expand(-1, -1, tokens, 1)
        raw = torch.cat([raw, sinks], dim=-1)
    weights = torch.softmax(raw, dim=-1)[..., :tokens]
    weights = dropout(weights, scores.dropout, training=scores.dropout > 0)
    return (weights.to(value.dtype) @ value[0].unsqueeze(1)).reshape(1, heads, tokens, value.shape[3])


def _seen(family: Family, window: int, device: torch.device) -> torch.Tensor:
    """Return which key (column) each query (row) sees: (tokens, tokens)."""
    lengths = torch.tensor(family.lengths, device=device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths, output_size=family.tokens)
    # A token's place in its text: samples that go on from the first one begin where that ends.
    place = torch.arange(family.tokens, device=device)
    place = place - (owner > 0) * (lengths.cumsum(0) - lengths - lengths[0])[owner]
    distance = place[:, None] - place[None, :]
    seen = ((owner[:, None] == owner[None, :]) | (owner[None, :] == 0)) & (distance >= 0)
    return seen & (distance < window) if window else seen
