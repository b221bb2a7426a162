"""Batched generation with transformers: greedy, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig as HfGenerationConfig
from transformers import StoppingCriteria, StoppingCriteriaList

from tanren.common.adapted import base_of
from tanren.common.attention.packed import inference_attention
from tanren.common.chat import prompt_hash, render_prompt
from tanren.common.config import GenerationConfig
from tanren.common.errors import UserError
from tanren.common.models.decoding import contiguous_head, stop_token_ids
from tanren.common.task_contract import Row
from tanren.evaluate.predictions import Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: logits are divided by `temperature`; of the likeliest, as many as reach `top_p` take part."""

    temperature: float
    top_p: float = 1.0


class _Tick(StoppingCriteria):
    """Calls back after every decoded token of a batch; never stops anything."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        del scores, kwargs
        self._callback()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    settings: GenerationConfig,
    *,
    on_token: Callable[[], None],
    on_batch: Callable[[int, int], None],
    sampling: Sampling | None = None,
) -> list[Prediction]:
    """Return one prediction per row, in the order of `rows`: greedy, or drawn with torch's generator if `sampling` is given.

    Prompts of like length share a batch (padded on the left, the padding masked). `on_token` is called for every
    decoding step, `on_batch` with the number of rows and of generated tokens after each batch.
    """
    texts = [render_prompt(tokenizer, row.prompt) for row in rows]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for row, tokens in zip(rows, ids, strict=True):
        if limit and len(tokens) + settings.max_new_tokens > limit:
            raise UserError(
                f"row {row.id}: the prompt of {len(tokens)} tokens and {settings.max_new_tokens} new ones exceed the model's "
                f"{limit} positions; lower max_new_tokens or shorten the row"
            )
    order = sorted(range(len(rows)), key=lambda index: len(ids[index]))
    done: dict[int, Prediction] = {}
    eos = stop_token_ids(model, tokenizer)
    was_training = model.training
    model.eval()
    with (
        torch.inference_mode(),
        inference_attention(model, settings.attention),
        contiguous_head(model),
        _no_checkpoint_settings(model),
    ):
        for first in range(0, len(order), settings.batch_size):
            batch = order[first : first + settings.batch_size]
            completions = _decode_batch(
                model, tokenizer, [ids[index] for index in batch], settings, eos, on_token, sampling
            )
            for index, new in zip(batch, completions, strict=True):
                stopped = bool(new) and new[-1] in eos
                done[index] = Prediction(
                    id=rows[index].id,
                    completion=str(tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)),
                    prompt_hash=prompt_hash(texts[index]),
                    finish_reason="stop" if stopped else "length",
                    prompt_tokens=len(ids[index]),
                    completion_tokens=len(new),
                )
            on_batch(len(batch), sum(len(new) for new in completions))
    model.train(was_training)
    return [done[index] for index in range(len(rows))]


@contextmanager
def _no_checkpoint_settings(model: PreTrainedModel) -> Iterator[None]:
    """Keep a checkpoint's generation_config.json out: what we leave unset would be filled from it.

    Qwen2.5's asks for a repetition penalty, for one, which is applied to greedy decoding too.
    """
    owner = base_of(model)
    before = owner.generation_config
    owner.generation_config = HfGenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = before


def _decode_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    settings: GenerationConfig,
    eos: list[int],
    on_token: Callable[[], None],
    sampling: Sampling | None,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    padding = tokenizer.pad_token_id
    inputs = torch.tensor([[padding] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    # top_k: transformers would keep the 50 likeliest where nothing is said
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling else {}
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    output = model.generate(  # type: ignore[operator]
        input_ids=inputs,
        attention_mask=mask,
        generation_config=HfGenerationConfig(
            do_sample=sampling is not None,
            **drawn,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=eos,
            pad_token_id=padding,
            use_cache=True,
        ),
        stopping_criteria=StoppingCriteriaList([_Tick(on_token)]),
    )
    return [_until_eos(row, eos) for row in output[:, width:].tolist()]


def _until_eos(tokens: list[int], eos: Sequence[int]) -> list[int]:
    """Return the tokens up to and with the first end-of-turn token; behind it stands only padding."""
    end = next((index for index, token in enumerate(tokens) if token in eos), None)
    return tokens if end is None else tokens[: end + 1]
