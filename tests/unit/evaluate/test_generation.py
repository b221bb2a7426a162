"""Batched greedy generation against a plain loop of one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tanren.common.attention.packed import registered_name
from tanren.common.chat import prompt_hash, render_prompt
from tanren.common.config import GenerationConfig
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.evaluate.generation import generate
from tanren.evaluate.predictions import Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END = 2


@pytest.fixture
def prompts() -> list[Row]:
    """Rows whose prompts have very different lengths, the longest neither first nor last."""
    texts = ["hi", "x" * 90, "three words here", "", "鍛錬 👩‍👩‍👧", "a" * 40]
    return [Row(f"r{index}", (Message("user", text),), "", "all") for index, text in enumerate(texts)]


@torch.no_grad()
def _greedy(model: PreTrainedModel, ids: list[int], most: int) -> list[int]:
    """Write the most likely token, one at a time: no cache, no padding, no batch."""
    new: list[int] = []
    while len(new) < most and END not in new:
        new.append(int(model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax()))
    return new


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], **settings: Any
) -> list[Prediction]:
    return generate(
        model,
        tokenizer,
        rows,
        GenerationConfig(**settings),
        on_token=lambda: None,
        on_batch=lambda items, tokens: None,
    )


@pytest.fixture
def stopping_model(tiny_qwen3: PreTrainedModel) -> PreTrainedModel:
    """Return a tiny model whose every token depends on all before it, and that ends some of its turns."""
    generator = torch.Generator().manual_seed(3)
    head = torch.nn.Linear(64, 259)
    with torch.no_grad():
        for weight in tiny_qwen3.model.layers.parameters():
            weight.mul_(10 if weight.dim() == 2 else 1)  # as initialised, attention adds next to nothing
        head.weight.normal_(generator=generator)
        head.bias.zero_()
        head.bias[END] = 19
    tiny_qwen3.set_output_embeddings(head)
    return tiny_qwen3


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_a_padded_batch_writes_what_each_prompt_alone_gets(
    stopping_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, prompts: list[Row], batch_size: int
) -> None:
    found = _generate(stopping_model, tiny_tokenizer, prompts, max_new_tokens=24, batch_size=batch_size)
    assert [prediction.id for prediction in found] == [row.id for row in prompts]
    lengths = set()
    for row, prediction in zip(prompts, found, strict=True):
        text = render_prompt(tiny_tokenizer, row.prompt)
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        new = _greedy(stopping_model, ids, 24)
        assert prediction == Prediction(
            id=row.id,
            completion=str(tiny_tokenizer.decode(new, skip_special_tokens=True)),
            prompt_hash=prompt_hash(text),
            finish_reason="stop" if new[-1] == END else "length",
            prompt_tokens=len(ids),
            completion_tokens=len(new),
        )
        lengths.add(len(new))
    assert len({prediction.completion for prediction in found}) == len(prompts)
    assert len(lengths) > 2, "the test needs completions that stop and completions that are cut"


def test_what_reaches_the_limit_is_counted_as_cut(
    tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, prompts: list[Row]
) -> None:
    found = _generate(tiny_qwen3, tiny_tokenizer, prompts, max_new_tokens=3)
    assert {(prediction.finish_reason, prediction.completion_tokens) for prediction in found} == {("length", 3)}


def test_every_token_and_every_batch_is_told(
    tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, prompts: list[Row]
) -> None:
    steps: list[int] = []
    batches: list[tuple[int, int]] = []
    generate(
        tiny_qwen3,
        tiny_tokenizer,
        prompts,
        GenerationConfig(max_new_tokens=5, batch_size=4),
        on_token=lambda: steps.append(1),
        on_batch=lambda items, tokens: batches.append((items, tokens)),
    )
    assert batches == [(4, 20), (2, 10)]
    assert len(steps) == 10


def test_a_prompt_that_leaves_no_room_is_told_with_its_row(
    tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    row = Row("long", (Message("user", "x" * 4080),), "", "all")
    with pytest.raises(UserError) as caught:
        _generate(tiny_qwen3, tiny_tokenizer, [row], max_new_tokens=16)
    assert "row long: the prompt of 4099 tokens and 16 new ones exceed the model's 4096 positions" in str(caught.value)


def test_a_model_in_training_is_given_back_as_it_was(
    tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, prompts: list[Row]
) -> None:
    plain = _generate(tiny_qwen3, tiny_tokenizer, prompts, max_new_tokens=4)
    tiny_qwen3.train()
    tiny_qwen3.set_attn_implementation(registered_name("sdpa"))
    assert _generate(tiny_qwen3, tiny_tokenizer, prompts, max_new_tokens=4) == plain
    assert tiny_qwen3.training
    assert tiny_qwen3.config._attn_implementation == registered_name("sdpa")


def test_sampling_settings_of_a_checkpoint_do_not_reach_the_evaluation(
    tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, prompts: list[Row]
) -> None:
    plain = _generate(tiny_qwen3, tiny_tokenizer, prompts, max_new_tokens=6)
    settings = tiny_qwen3.generation_config
    assert settings is not None
    settings.do_sample, settings.temperature = True, 50.0
    settings.repetition_penalty = 9.0
    settings.suppress_tokens = [201]  # a line break: what this model writes
    adapted: Any = get_peft_model(tiny_qwen3, LoraConfig(target_modules=["q_proj"]))
    for model in (tiny_qwen3, adapted):
        assert _generate(model, tiny_tokenizer, prompts, max_new_tokens=6) == plain
        assert model.generation_config is settings
