"""The engine that decodes with the trained model: its words, their log-probabilities, and where it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tanren.common.completions import Completion, Sampling
from tanren.grpo.transformers_engine import TransformersEngine, draw, probabilities

MakeModel = Callable[..., Any]
PROMPTS = [[65, 66, 67], [70], [80, 81, 82, 83, 84, 85, 86, 87, 88]]
ALL_WORDS = tuple(range(0, 259, 2))


def _engine(model: Any, batch_size: int = 64, seed: int = 1) -> TransformersEngine:
    return TransformersEngine(model, batch_size=batch_size, padding=0, seed=seed)


@torch.no_grad()
def _alone(model: Any, prompt: list[int], completion: Completion) -> list[float]:
    """Log-probabilities of a completion by one pass over it alone, without cache, padding or batch."""
    model.get_base_model().set_attn_implementation("eager")
    logits = model(input_ids=torch.tensor([[*prompt, *completion.token_ids]]), use_cache=False).logits[0]
    every = logits.double().log_softmax(-1)
    return [float(every[len(prompt) + place - 1, token]) for place, token in enumerate(completion.token_ids)]


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-qwen3-moe", "tiny-gpt-oss"])
def test_the_log_probs_are_the_models_at_temperature_1(adapted: MakeModel, name: str) -> None:
    model = adapted(name)
    sampling = Sampling(40, temperature=0.7, top_k=100, stop_token_ids=ALL_WORDS[:8])
    found = _engine(model, batch_size=6).generate(PROMPTS, 4, sampling)
    assert [len(group) for group in found] == [4, 4, 4]
    assert len({completion.token_ids for group in found for completion in group}) == 12
    assert {completion.finish_reason for group in found for completion in group} == {"stop", "length"}
    for prompt, group in zip(PROMPTS, found, strict=True):
        for completion in group:
            assert completion.log_probs == pytest.approx(_alone(model, prompt, completion), abs=2e-4)


def test_a_completion_ends_with_its_first_stop_token_or_is_truncated(adapted: MakeModel) -> None:
    stops = ALL_WORDS[:40]
    for group in _engine(adapted()).generate(PROMPTS, 8, Sampling(7, stop_token_ids=stops)):
        for completion in group:
            found = [token in stops for token in completion.token_ids]
            assert not any(found[:-1])
            assert completion.finish_reason == ("stop" if found[-1] else "length")
            assert found[-1] or len(completion.token_ids) == 7
            assert len(completion.log_probs) == len(completion.token_ids)


def test_draws_follow_the_seed_and_the_state(adapted: MakeModel) -> None:
    model, sampling = adapted(), Sampling(5, stop_token_ids=(2,))
    first = _engine(model)
    before = first.generate(PROMPTS, 2, sampling)
    state = {name: value.clone() for name, value in first.state().items()}
    after = first.generate(PROMPTS, 2, sampling)
    assert before != after
    assert _engine(model).generate(PROMPTS, 2, sampling) == before
    assert _engine(model, seed=2).generate(PROMPTS, 2, sampling) != before
    other = _engine(model, seed=9)
    other.take_up(state)
    assert other.generate(PROMPTS, 2, sampling) == after


def test_the_model_keeps_its_attention_and_its_mode(adapted: MakeModel) -> None:
    model = adapted()
    model.train()
    own = model.get_base_model().config._attn_implementation
    _engine(model).generate(PROMPTS, 1, Sampling(2, stop_token_ids=(2,)))
    assert model.training
    assert model.get_base_model().config._attn_implementation == own


def test_which_words_are_left_out() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()

    def shares(**settings: Any) -> list[float]:
        return [round(one, 4) for one in probabilities(logits, Sampling(1, **settings))[0].tolist()]

    assert shares() == [0.5, 0.25, 0.15, 0.1]
    assert shares(top_k=2) == [0.6667, 0.3333, 0, 0]
    assert shares(top_p=0.6) == [0.6667, 0.3333, 0, 0]  # the word that passes 0.6 still belongs to it
    assert shares(top_p=0.5) == [1, 0, 0, 0]
    assert shares(min_p=0.3) == [0.5556, 0.2778, 0.1667, 0]
    assert shares(temperature=0.5) == [0.7246, 0.1812, 0.0652, 0.029]


def test_words_are_drawn_as_often_as_they_are_probable() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(20_000, 3)
    words, log_probs = draw(logits, logits, Sampling(1, temperature=0.5), torch.Generator().manual_seed(0))
    shares = Counter(words.tolist())
    # Squared and normed: 0.25, 0.09 and 0.04 of 0.38.
    assert [shares[word] / 20_000 for word in range(3)] == pytest.approx([0.6579, 0.2368, 0.1053], abs=0.01)
    torch.testing.assert_close(log_probs, logits[0].log_softmax(0)[words])


def test_words_that_are_left_out_are_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, -20.0, -torch.inf]]).expand(5_000, 5)
    words, _ = draw(logits, logits, Sampling(1), torch.Generator().manual_seed(0))
    assert set(words.tolist()) <= {1, 3}
    last = torch.tensor([[0.0, -torch.inf]]).expand(5_000, 2)
    assert set(draw(last, last, Sampling(1), torch.Generator().manual_seed(0))[0].tolist()) == {0}
