"""The fused way through whole models against PEFT and the library: the same loss, the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tanren.common.fused import route_of

if TYPE_CHECKING:
    from tanren.common.config import Checkpointing

MakeModel = Callable[..., Any]
MicroBatch = Any
"""See conftest."""


def _gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def _agree(fused: Any, library: Any, micro_batch: MicroBatch, checkpointing: Checkpointing = "none") -> None:
    found, expected = micro_batch.fused(fused, checkpointing), micro_batch.library(library)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    made, wanted = _gradients(fused, found), _gradients(library, expected)
    assert made.keys() == wanted.keys() == {name for name, one in library.named_parameters() if one.requires_grad}
    for name, one in wanted.items():
        assert one.norm() > 0, name
        assert (made[name] - one).norm() <= 1e-5 * one.norm(), name


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen2-windows", "qwen3"])
def test_loss_and_gradients_are_the_librarys(
    adapted: MakeModel, micro_batch: MicroBatch, architecture: str, checkpointing: Checkpointing
) -> None:
    _agree(adapted(architecture), adapted(architecture), micro_batch, checkpointing)


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["down_proj"]},
        {"target_modules": ["gate_proj", "o_proj"]},
        {"target_modules": ["up_proj", "k_proj"]},
        {"use_rslora": True, "r": 9},
        {"r": 64},
        {"rank_pattern": {"q_proj": 2, "up_proj": 7, "down_proj": 1}, "alpha_pattern": {"k_proj": 3}},
        {"layers_to_transform": [1]},
        {"rank_pattern": {r"layers\.2\.self_attn\.v_proj": 5}},
    ],
    ids=lambda lora: " ".join(f"{name}={value}" for name, value in lora.items()),
)
def test_adapters_may_be_anywhere_and_of_any_rank(
    adapted: MakeModel, micro_batch: MicroBatch, lora: dict[str, Any], checkpointing: Checkpointing
) -> None:
    _agree(adapted("qwen3", **lora), adapted("qwen3", **lora), micro_batch, checkpointing)


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_checkpointing_changes_neither_loss_nor_gradients_in_a_single_bit(
    adapted: MakeModel, micro_batch: MicroBatch, checkpointing: Checkpointing
) -> None:
    plain, sparing = adapted("qwen3"), adapted("qwen3")
    losses = [micro_batch.fused(plain), micro_batch.fused(sparing, checkpointing)]
    assert torch.equal(losses[0], losses[1])
    kept, again = _gradients(plain, losses[0]), _gradients(sparing, losses[1])
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_samples_do_not_see_one_another(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    model = adapted("qwen3")
    micro_batch.fused(model)
    fused = route_of(model).fused
    assert fused is not None
    with torch.no_grad():
        together = fused.hidden(micro_batch.tokens, micro_batch.positions, micro_batch.lengths)
        alone = [
            fused.hidden(one[None], torch.arange(len(one))[None], (len(one),))
            for one in micro_batch.tokens[0].split(micro_batch.lengths)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_two_passes_add_their_gradients(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    model = adapted("qwen2")
    once = {name: one.clone() for name, one in _gradients(model, micro_batch.fused(model)).items()}
    micro_batch.fused(model).backward()
    for name, one in model.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(one.grad, 2 * once[name])


def test_frozen_weights_and_the_librarys_own_way_are_as_they_were(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    model, untouched = adapted("qwen2"), adapted("qwen2")
    micro_batch.fused(model).backward()
    assert all(torch.equal(one, untouched.state_dict()[name]) for name, one in model.state_dict().items())
    assert torch.equal(micro_batch.library(model), micro_batch.library(untouched))


def test_weights_are_not_held_twice(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    model = adapted("llama")
    micro_batch.fused(model)
    attention = model.get_base_model().model.layers[0].self_attn
    places = {
        attention.get_submodule(name).base_layer.weight.untyped_storage().data_ptr() for name in ("q_proj", "k_proj")
    }
    assert len(places) == 1  # of the joint weight


def test_what_the_optimizer_changes_is_seen_by_the_next_pass(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    models = adapted("qwen3"), adapted("qwen3")
    ways: list[Callable[[Any], torch.Tensor]] = [micro_batch.fused, micro_batch.library]
    losses: list[list[float]] = [[], []]
    for found, model, way in zip(losses, models, ways, strict=True):
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.01)
        for _ in range(4):
            loss = way(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_a_loaded_adapter_is_seen_by_the_next_pass(adapted: MakeModel, micro_batch: MicroBatch, tmp_path: Path) -> None:
    model, other = adapted("qwen3"), adapted("qwen3")
    before = micro_batch.fused(model).item()
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    other.save_pretrained(tmp_path)
    model.load_adapter(str(tmp_path), "default", is_trainable=True)  # as a resumed run does
    assert micro_batch.fused(model).item() != pytest.approx(before, rel=1e-4)
    _agree(model, other, micro_batch)


def test_an_adapter_that_was_given_other_memory_is_seen_by_the_next_pass(
    adapted: MakeModel, micro_batch: MicroBatch
) -> None:
    model, other = adapted("qwen3"), adapted("qwen3")
    micro_batch.fused(model)
    for one in (model, other):
        for name, parameter in one.named_parameters():
            if "layers.1" in name and parameter.requires_grad:
                parameter.data = parameter.data * 2
    _agree(model, other, micro_batch)
