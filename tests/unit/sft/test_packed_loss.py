"""The loss of packed samples against a plain forward pass of each sample alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample
from tanren.common.models.tiny import tiny_model
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]
Gradients = dict[str, torch.Tensor]


@pytest.fixture
def samples(make: MakeSample) -> list[Sample]:
    """Eight samples of 2 to 30 tokens; of some the first token is marked, which nothing can predict."""
    generator = torch.Generator().manual_seed(7)
    lengths = [2, 30, 11, 5, 17, 3, 8, 23]
    return [
        make(torch.randint(3, 259, (length,), generator=generator).tolist(), prompt=index % 3, row_id=str(index))
        for index, length in enumerate(lengths)
    ]


@pytest.fixture
def packed_model() -> PreTrainedModel:
    model = tiny_model("tiny-qwen3", torch.float32)
    model.train()
    model.set_attn_implementation(registered_name("sdpa"))
    return model


def _alone(sample: Sample) -> tuple[torch.Tensor, Gradients]:
    """The summed loss of one sample and its gradients, in float64 with the model's own attention and no packing."""
    model = tiny_model("tiny-qwen3", torch.float64).train()
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([sample.input_ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    labels = ids[0, 1:].masked_fill(~torch.tensor(sample.loss_mask[1:]), -100)
    loss = cross_entropy(logits.double(), labels, ignore_index=-100, reduction="sum")
    loss.backward()
    return loss.detach(), _gradients(model)


def _gradients(model: PreTrainedModel) -> Gradients:
    return {name: weight.grad.double() for name, weight in model.named_parameters() if weight.grad is not None}


def _packed(model: PreTrainedModel, groups: list[list[Sample]]) -> tuple[torch.Tensor, Gradients]:
    model.zero_grad()
    total = torch.zeros(())
    for group in groups:
        loss = packed_loss(model, MicroBatch(tuple(group)), "cpu")
        loss.backward()
        total += loss.detach()
    return total.double(), _gradients(model)


def _assert_close(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # float32 against float64: relative to the largest entry of the weight's gradient.
        assert (found[name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name


def test_a_packed_micro_batch_gives_loss_and_gradients_of_its_samples_alone(
    packed_model: PreTrainedModel, samples: list[Sample]
) -> None:
    loss, gradients = _packed(packed_model, [samples])
    alone = [_alone(sample) for sample in samples]
    torch.testing.assert_close(loss, torch.stack([one for one, _ in alone]).sum(), rtol=1e-6, atol=0)
    _assert_close(gradients, {name: sum((g[name] for _, g in alone), torch.zeros(())) for name in alone[0][1]})


@pytest.mark.parametrize("per_pass", [1, 3])
def test_the_packing_changes_neither_loss_nor_gradients(
    packed_model: PreTrainedModel, samples: list[Sample], per_pass: int
) -> None:
    loss, gradients = _packed(packed_model, [samples])
    groups = [samples[first : first + per_pass] for first in range(0, len(samples), per_pass)]
    other, others = _packed(packed_model, groups)
    torch.testing.assert_close(loss, other, rtol=1e-6, atol=0)
    _assert_close(others, gradients)


def test_a_sample_does_not_see_its_neighbours(packed_model: PreTrainedModel, make: MakeSample) -> None:
    watched = make([9, 8, 7, 6, 5], prompt=2)
    masked = [make([first] * 6, prompt=6) for first in (20, 99)]  # read, but nothing of it is learned
    losses = [
        packed_loss(packed_model, MicroBatch((before, watched, after)), "cpu").item()
        for before in masked
        for after in masked
    ]
    assert losses == [losses[0]] * 4
    assert losses[0] == pytest.approx(_alone(watched)[0].item(), rel=1e-6)


def test_a_model_with_its_own_attention_takes_samples_one_by_one(make: MakeSample) -> None:
    model = tiny_model("tiny-gpt-oss", torch.float32).train()
    sample = make(list(range(10, 60)), prompt=20)  # longer than its window of 32
    loss = packed_loss(model, MicroBatch((sample,)), "cpu")
    logits = model(input_ids=torch.tensor([sample.input_ids]), use_cache=False).logits[0, 19:-1]
    expected = cross_entropy(logits, torch.tensor(sample.input_ids[20:]), reduction="sum")
    torch.testing.assert_close(loss, expected)
