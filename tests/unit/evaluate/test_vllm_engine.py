"""What is asked of vLLM in evaluation and what is made of its answers; a tiny model on the CPU stands for what it generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tanren.common.completions import Completion, Sampling, Tokens
from tanren.common.config import GenerationConfig
from tanren.common.models.tiny import tiny_model, tiny_tokenizer
from tanren.common.task_contract import Row
from tanren.evaluate import vllm_engine
from tanren.evaluate.engine import CompletionText, Draws, Slot, prompts_of
from tanren.evaluate.generation import TransformersEngine
from tanren.evaluate.vllm_engine import VllmEngine
from tanren.grpo import transformers_engine

pytestmark = pytest.mark.filterwarnings("ignore")


class _OnCpu:
    """Generates as vLLM is asked to: each prompt's draws follow from its seed alone."""

    def __init__(self, model: Any) -> None:
        self.model, self.asked = model, []  # type: ignore[var-annotated]

    def take_over(self, model: Any, prompt_tokens: int, new_tokens: int, prompts: int, samples: int) -> Any:
        assert model is self.model
        self.asked.append((prompt_tokens, new_tokens, prompts, samples))
        return self

    def generate(
        self,
        prompts: Sequence[Tokens],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int] | None,
    ) -> list[list[Completion]]:
        if seeds is None:  # temperature 0 is the limit of a low one
            cold = Sampling(sampling.max_new_tokens, 1e-4, stop_token_ids=sampling.stop_token_ids)
            greedy: list[list[Completion]] = self._engine(0).generate(prompts, n, cold)
            return greedy
        return [
            self._engine(seed).generate([prompt], n, sampling)[0] for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _engine(self, seed: int) -> Any:
        return transformers_engine.TransformersEngine(self.model, batch_size=64, padding=0, seed=seed)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("tiny-qwen3", torch.float32)


def _answers(
    engine: Any, rows: Sequence[Row], draws: Draws, wanted: frozenset[Slot] | None = None
) -> dict[Slot, CompletionText]:
    prompts = prompts_of(tiny_tokenizer(), rows)
    every = frozenset(Slot(row, sample) for row in range(len(rows)) for sample in range(draws.samples))
    found: dict[Slot, CompletionText] = {}
    engine.generate(prompts, wanted or every, draws, found.update, lambda _: None)
    return found


def test_greedy_answers_are_those_of_the_engine_transformers(model: Any, rows: list[Row]) -> None:
    plain = TransformersEngine(model, tiny_tokenizer(), GenerationConfig(batch_size=2))
    vllm = VllmEngine(_OnCpu(model), model, tiny_tokenizer())  # type: ignore[arg-type]
    draws = Draws.greedy(12)
    assert _answers(vllm, rows, draws) == _answers(plain, rows, draws)


def test_a_sample_does_not_depend_on_what_else_is_asked(
    model: Any, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Draws(Sampling(10), samples=3, seed=5)
    on_cpu = _OnCpu(model)
    every = _answers(VllmEngine(on_cpu, model, tiny_tokenizer()), rows, draws)  # type: ignore[arg-type]
    assert len(every) == 12
    assert len({one.text for one in every.values()}) > 4
    monkeypatch.setattr(vllm_engine, "TOGETHER", 6)  # two prompts at once
    wanted = frozenset({Slot(0, 1), Slot(2, 0), Slot(3, 2)})
    some = _answers(VllmEngine(on_cpu, model, tiny_tokenizer()), rows, draws, wanted)  # type: ignore[arg-type]
    assert wanted <= set(some)
    assert all(some[slot] == every[slot] for slot in some)
    assert {slot.prompt for slot in some} == {0, 2, 3}
    longest = max(len(prompt.token_ids) for prompt in prompts_of(tiny_tokenizer(), rows))
    assert on_cpu.asked == [(longest, 10, 4, 3), (longest, 10, 2, 3)]
