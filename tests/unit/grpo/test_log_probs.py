"""Log-probabilities of packed completions: against a padded batch of the library's, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tanren.common.attention.packed import registered_name
from tanren.common.fused import _log_probs, linear_log_probs
from tanren.grpo.micro_batches import log_probs_of, micro_batches, tensors_of
from tanren.grpo.rollout import Rated

MakeModel = Callable[..., Any]
MakeRated = Callable[..., Rated]
PAIRS = [([5, 6, 7], [8, 9]), ([20], [30, 31, 32, 33]), ([40, 41, 42, 43, 44, 45], [50])]


@pytest.fixture
def batch(rated: MakeRated) -> list[Rated]:
    return [rated(prompt, tokens, advantage=0.5 - index) for index, (prompt, tokens) in enumerate(PAIRS)]


def _padded(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of the completions by a padded batch, with the library's attention and all logits."""
    base = model.get_base_model()
    own = base.config._attn_implementation
    base.set_attn_implementation("eager")
    width = max(len(prompt) + len(tokens) for prompt, tokens in PAIRS)
    rows = [prompt + tokens for prompt, tokens in PAIRS]
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits = model(input_ids=ids, attention_mask=mask).logits.double()
    base.set_attn_implementation(own)
    every = logits.log_softmax(-1)
    values, entropies = [], []
    for number, (prompt, tokens) in enumerate(PAIRS):
        for place, token in enumerate(tokens, start=len(prompt)):
            values.append(every[number, place - 1, token])
            entropies.append(-(every[number, place - 1].exp() * every[number, place - 1]).sum())
    return torch.stack(values), torch.stack(entropies)


@pytest.mark.parametrize(
    ("name", "layers", "modules"),
    [
        ("tiny-qwen3", "plain", ("q_proj", "o_proj")),
        ("tiny-qwen3", "fused", ("q_proj", "o_proj")),
        ("tiny-qwen3", "plain", ("q_proj", "lm_head")),  # a head with an adapter goes the library's way
        ("tiny-gpt-oss", "plain", ("q_proj", "o_proj")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_packed_completions_have_the_log_probs_of_a_padded_batch_and_its_gradients(
    adapted: MakeModel, batch: list[Rated], name: str, layers: str, modules: tuple[str, ...]
) -> None:
    model = adapted(name, layers=layers, modules=modules)
    weights = torch.linspace(-1, 2, 7)
    trained = [one for one in model.parameters() if one.requires_grad]
    values, entropies = _padded(model)
    expected = torch.autograd.grad((weights * values).sum(), trained)
    found = log_probs_of(model, tensors_of(batch, "cpu"))
    got = torch.autograd.grad((weights * found.log_probs).sum(), trained)
    torch.testing.assert_close(found.log_probs, values.float(), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.entropies, entropies.float(), rtol=0, atol=2e-5)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("layers", ["plain", "fused"])
def test_the_reference_is_the_model_without_its_adapter(adapted: MakeModel, batch: list[Rated], layers: str) -> None:
    model = adapted(layers=layers)
    made = tensors_of(batch, "cpu")
    reference = log_probs_of(model, made, reference=True)
    assert not reference.log_probs.requires_grad
    with model.disable_adapter():
        expected = _padded(model)[0].detach()
    torch.testing.assert_close(reference.log_probs, expected.float(), rtol=0, atol=2e-5)
    assert (reference.log_probs - log_probs_of(model, made).log_probs).abs().max() > 1e-2


def test_logits_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(12, 8, generator=generator, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator)
    predicting, targets = torch.tensor([1, 4, 5, 9, 11]), torch.tensor([3, 49, 0, 7, 7])
    above = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0])
    log_probs = (hidden[predicting] @ weight.t()).log_softmax(-1)
    (expected,) = torch.autograd.grad((above * log_probs.gather(1, targets[:, None])[:, 0]).sum(), hidden)
    for logits in (10, 100, 10_000):  # one row at a time, two, all
        monkeypatch.setattr(_log_probs, "CPU_LOGITS", logits)
        found = linear_log_probs(hidden, weight, predicting, targets)
        (got,) = torch.autograd.grad((above * found.log_probs).sum(), hidden)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(found.log_probs, log_probs.gather(1, targets[:, None])[:, 0])


def test_log_probs_of_bfloat16_are_as_exact_as_float32_allows() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(rows, 64, generator=generator).bfloat16() for rows in (6, 200))
    predicting, targets = torch.arange(6), torch.tensor([3, 199, 0, 7, 7, 50])
    wide = hidden.double().requires_grad_()
    logits = wide @ weight.double().t()
    assert float(logits.detach().abs().max()) > 16  # bfloat16 has steps of an eighth there
    exact = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad(exact.sum(), wide)
    hidden.requires_grad_()
    found = linear_log_probs(hidden, weight, predicting, targets)
    (got,) = torch.autograd.grad(found.log_probs.sum(), hidden)
    torch.testing.assert_close(found.log_probs.double(), exact, rtol=0, atol=2e-5)
    assert float((got.double() - expected).norm() / expected.norm()) < 2**-7


def test_micro_batches_keep_to_their_budget_and_lose_nothing(rated: MakeRated) -> None:
    completions = [rated([1] * (1 + index % 5), [2] * (1 + index % 7), group=index) for index in range(20)]
    batches = micro_batches(completions, 16)
    assert sorted(one.group for batch in batches for one in batch) == list(range(20))
    assert all(sum(one.tokens for one in batch) <= 16 for batch in batches)


def test_a_shared_prompt_counts_once_in_a_micro_batch(rated: MakeRated) -> None:
    completions = [rated([1] * 10, [2] * (1 + index % 3), group=index // 6) for index in range(18)]
    batches = micro_batches(completions, 18, shared=True)
    assert sorted(id(one) for batch in batches for one in batch) == sorted(map(id, completions))
    for batch in batches:
        made = tensors_of(batch, "cpu", shared=True)
        assert made.tokens.shape[1] <= 18
        assert made.follows.count(False) == len({one.group for one in batch})
        assert [made.tokens[0, place].item() for place in made.predicting] == [
            before for one in batch for before in (one.prompt.token_ids[-1], *one.completion.token_ids[:-1])
        ]
    assert len(batches) < len(micro_batches(completions, 18))
    assert len(micro_batches([rated([1] * 30, [2])], 18, shared=True)) == 1  # too long: alone


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-gpt-oss", "tiny-qwen3-moe"])  # gpt-oss: windows of 32, sinks
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.filterwarnings("ignore")
def test_a_shared_prompt_changes_neither_log_probs_nor_gradients(
    adapted: MakeModel, rated: MakeRated, name: str, kernel: str
) -> None:
    model = adapted(name)
    model.get_base_model().set_attn_implementation(registered_name(kernel))
    trained = [one for one in model.parameters() if one.requires_grad]
    generator = torch.Generator().manual_seed(2)

    def text(length: int) -> list[int]:
        return torch.randint(3, 259, (length,), generator=generator).tolist()

    completions = [
        rated(prompt, text(length), group=group)
        for group, (prompt, lengths) in enumerate(((text(40), (50, 1, 33)), (text(3), (4,)), (text(17), (20, 9))))
        for length in lengths
    ]
    alone = log_probs_of(model, tensors_of(completions, "cpu"))
    made = tensors_of(completions, "cpu", shared=True)
    assert made.tokens.shape[1] == 40 + 84 + 3 + 4 + 17 + 29
    together = log_probs_of(model, made)
    above = torch.randn(len(alone.log_probs), generator=generator)
    expected, got = (torch.autograd.grad((above * one.log_probs).sum(), trained) for one in (alone, together))
    torch.testing.assert_close(together.log_probs, alone.log_probs, rtol=0, atol=2e-5)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_a_micro_batch_is_laid_out_end_to_end(rated: MakeRated) -> None:
    made = tensors_of(
        [rated([5, 6], [7, 8], log_probs=[-1, -2], advantage=0.5), rated([9], [4], advantage=-1.0)], "cpu"
    )
    assert made.tokens.tolist() == [[5, 6, 7, 8, 9, 4]]
    assert made.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert (made.lengths, made.learned) == ([4, 2], [2, 1])
    assert (made.predicting.tolist(), made.targets.tolist()) == ([1, 2, 4], [7, 8, 4])
    assert (made.engine.tolist(), made.advantages.tolist()) == ([-1, -2, -1], [0.5, 0.5, -1.0])
