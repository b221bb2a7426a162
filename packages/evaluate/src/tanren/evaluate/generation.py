"""Batched generation with transformers: greedy, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig as HfGenerationConfig
from transformers import StoppingCriteria, StoppingCriteriaList

from tanren.common.adapted import base_of
from tanren.common.completions import Sampling
from tanren.common.config import GenerationConfig
from tanren.common.errors import UserError
from tanren.common.models.decoding import decoding, stop_token_ids
from tanren.common.task_contract import Row
from tanren.evaluate.engine import CompletionText, Done, Draws, Prompt, Slot, prompts_of
from tanren.evaluate.predictions import Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Tick(StoppingCriteria):
    """Calls back after every decoded token of a batch; never stops anything."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        del scores, kwargs
        self._callback()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class TransformersEngine:
    """Generates with a loaded model, in padded batches."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: GenerationConfig) -> None:
        """Generate with `model`, `settings.batch_size` prompts at a time."""
        self._model, self._tokenizer, self._settings = model, tokenizer, settings

    def generate(
        self,
        prompts: Sequence[Prompt],
        wanted: frozenset[Slot],
        draws: Draws,
        done: Done,
        say: Callable[[str], None],
    ) -> None:
        """Generate batch by batch; a batch is always the same slots with draws of its own, whatever of it is wanted.

        So a run that was interrupted goes on to the very completions of one that was not. Raises UserError, naming the row,
        for a prompt that leaves no room for the completion.
        """
        sampling = draws.sampling
        check_room(self._model, prompts, sampling.max_new_tokens)
        slots = [Slot(index, sample) for index in range(len(prompts)) for sample in range(draws.samples)]
        order = sorted(slots, key=lambda slot: len(prompts[slot.prompt].token_ids))
        size, steps = self._settings.batch_size, 0

        def on_token() -> None:
            nonlocal steps
            steps += 1
            say(f"token {steps} of at most {sampling.max_new_tokens}")

        with _decoding(self._model, self._tokenizer, self._settings) as eos:
            for number, first in enumerate(range(0, len(order), size)):
                batch = order[first : first + size]
                if wanted.isdisjoint(batch):
                    continue
                if not sampling.greedy:
                    torch.manual_seed(draws.seed * 1_000_003 + number)
                steps = 0
                ids = [prompts[slot.prompt].token_ids for slot in batch]
                made = _decode_batch(self._model, self._tokenizer, ids, eos, sampling, on_token)
                done(list(zip(batch, made, strict=True)))


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
    prompts = prompts_of(tokenizer, rows)
    sampling = sampling or Draws.greedy(settings.max_new_tokens).sampling
    check_room(model, prompts, sampling.max_new_tokens)
    order = sorted(range(len(rows)), key=lambda index: len(prompts[index].token_ids))
    found: dict[int, Prediction] = {}
    with _decoding(model, tokenizer, settings) as eos:
        for first in range(0, len(order), settings.batch_size):
            batch = order[first : first + settings.batch_size]
            ids = [prompts[index].token_ids for index in batch]
            made = _decode_batch(model, tokenizer, ids, eos, sampling, on_token)
            found |= {
                index: Prediction.of(prompts[index].row.id, prompts[index].hash, one)
                for index, one in zip(batch, made, strict=True)
            }
            on_batch(len(batch), sum(one.completion_tokens for one in made))
    return [found[index] for index in range(len(rows))]


def check_room(model: PreTrainedModel, prompts: Sequence[Prompt], new: int) -> None:
    """Raise UserError, naming the row, for a prompt that leaves no room for `new` tokens."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for prompt in prompts:
        tokens = len(prompt.token_ids)
        if limit and tokens + new > limit:
            raise UserError(
                f"row {prompt.row.id}: the prompt of {tokens} tokens and {new} new ones exceed the model's "
                f"{limit} positions; lower max_new_tokens or shorten the row"
            )


@contextmanager
def _decoding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: GenerationConfig
) -> Iterator[list[int]]:
    """Make a model ready to decode, give the tokens that end a turn, and give the model back as it was."""
    eos = stop_token_ids(model, tokenizer)
    with decoding(model, settings.attention), _no_checkpoint_settings(model):
        yield eos


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
    prompts: Sequence[Sequence[int]],
    eos: list[int],
    sampling: Sampling,
    on_token: Callable[[], None],
) -> list[CompletionText]:
    width = max(len(prompt) for prompt in prompts)
    padding = tokenizer.pad_token_id
    inputs = torch.tensor([[padding] * (width - len(prompt)) + [*prompt] for prompt in prompts], device=model.device)
    # top_k: transformers would keep the 50 likeliest where nothing is said
    drawn = {} if sampling.greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    output = model.generate(  # type: ignore[operator]
        input_ids=inputs,
        attention_mask=mask,
        generation_config=HfGenerationConfig(
            do_sample=not sampling.greedy,
            **drawn,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=eos,
            pad_token_id=padding,
            use_cache=True,
        ),
        stopping_criteria=StoppingCriteriaList([_Tick(on_token)]),
    )
    made = [_until_eos(row, eos) for row in output[:, width:].tolist()]
    return [
        CompletionText(
            text=str(tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)),
            finish_reason="stop" if new and new[-1] in eos else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(new),
        )
        for prompt, new in zip(prompts, made, strict=True)
    ]


def _until_eos(tokens: list[int], eos: Sequence[int]) -> list[int]:
    """Return the tokens up to and with the first end-of-turn token; behind it stands only padding."""
    end = next((index for index, token in enumerate(tokens) if token in eos), None)
    return tokens if end is None else tokens[: end + 1]
