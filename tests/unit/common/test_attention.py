"""Attention over packed samples: against a plain computation, and its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from tanren.common.attention import SEGMENTS, choose_training_attention, inference_attention, segments_attention
from tanren.common.models.tiny import tiny_model


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: tuple[int, ...]) -> torch.Tensor:
    """Softmax attention, written out, with a mask that is block-diagonal and causal."""
    tokens, repeats = query.shape[2], query.shape[1] // key.shape[1]
    owner = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(segments))
    order = torch.arange(tokens)
    seen = (owner[:, None] == owner[None, :]) & (order[:, None] >= order[None, :])
    heads = []
    for head in range(query.shape[1]):
        scores = query[0, head] @ key[0, head // repeats].T / math.sqrt(query.shape[3])
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
        heads.append(weights @ value[0, head // repeats])
    return torch.stack(heads, dim=1)[None]


@pytest.mark.parametrize("segments", [(7,), (3, 4), (1, 5, 1), (1, 1, 1, 1, 1, 1, 1)])
def test_each_packed_sample_attends_causally_to_itself_alone(segments: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, 7, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(1, 2, 7, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    found, _ = segments_attention(torch.nn.Identity(), query, key, value, None, segments=segments)
    torch.testing.assert_close(found, _plain(query, key, value, segments))


def test_a_padded_batch_is_refused(tiny_qwen3: PreTrainedModel) -> None:
    tiny_qwen3.set_attn_implementation(SEGMENTS)
    with pytest.raises(ValueError, match="padded batch"):
        tiny_qwen3(input_ids=torch.tensor([[0, 5, 6]]), attention_mask=torch.tensor([[0, 1, 1]]), segments=(3,))


def test_packed_attention_without_segment_lengths_is_refused(tiny_qwen3: PreTrainedModel) -> None:
    tiny_qwen3.set_attn_implementation(SEGMENTS)
    with pytest.raises(AssertionError, match="segment lengths"):
        tiny_qwen3(input_ids=torch.tensor([[5, 6]]))


def test_qwen3_packs_and_gpt_oss_takes_one_sample_per_pass() -> None:
    packs = choose_training_attention(tiny_model("tiny-qwen3", torch.float32))
    assert (packs.kernel, packs.packs) == (SEGMENTS, True)
    model = tiny_model("tiny-gpt-oss", torch.float32)
    alone = choose_training_attention(model)
    assert (alone.kernel, alone.packs) == (model.config._attn_implementation, False)
    assert "attention sinks and sliding windows: one sample per pass" in alone.reason


def test_inference_takes_an_attention_that_knows_padding_and_gives_the_packed_one_back(
    tiny_qwen3: PreTrainedModel,
) -> None:
    tiny_qwen3.set_attn_implementation(SEGMENTS)
    with inference_attention(tiny_qwen3):
        assert tiny_qwen3.config._attn_implementation == "sdpa"
    assert tiny_qwen3.config._attn_implementation == SEGMENTS
