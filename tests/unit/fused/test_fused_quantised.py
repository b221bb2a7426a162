"""Fused layers on frozen weights in fewer bits, against the library's layers on the same ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tanren.common.errors import UserError
from tanren.common.fp8 import quantise_model, unrounded_inputs
from tanren.common.fused import choose_route, route_of

MakeModel = Callable[..., Any]
MicroBatch = Any
"""See conftest."""
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (it is in the GPU locks)"
)
STEPS = 30


def in_nf4(model: Any) -> None:
    """Put bitsandbytes' 4-bit layers in the place of all linear ones but the output head, as loading does."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                packed = Linear4bit(
                    child.in_features, child.out_features, compute_dtype=torch.float32, quant_type="nf4"
                )
                packed.weight = Params4bit(child.weight.detach(), requires_grad=False, quant_type="nf4")
                packed.bias = child.bias
                packed.support_avx512bf16_for_cpu = False
                setattr(module, name, packed.to("cpu"))
    model.is_loaded_in_4bit = True


def in_fp8(model: Any) -> None:
    """Put all linear layers but the output head into 8-bit floating point, as loading does."""
    quantise_model(model, "cpu")


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@needs_bitsandbytes
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_loss_and_gradients_on_4_bits_are_the_librarys(
    adapted: MakeModel, micro_batch: MicroBatch, architecture: str, checkpointing: Any
) -> None:
    plain, model = (adapted(architecture, change=in_nf4) for _ in range(2))
    expected = micro_batch.library(plain)
    wanted = gradients(plain, expected)
    loss = micro_batch.fused(model, checkpointing)
    found = gradients(model, loss)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * float(one.abs().max()), msg=name)


@needs_bitsandbytes
@pytest.mark.parametrize("lora", [{"target_modules": ["k_proj", "down_proj"]}, {"r": 24}])
def test_layers_without_an_adapter_and_other_ranks_are_fused_on_4_bits(
    adapted: MakeModel, micro_batch: MicroBatch, lora: dict[str, Any]
) -> None:
    plain, model = (adapted("qwen3", change=in_nf4, **lora) for _ in range(2))
    wanted = gradients(plain, micro_batch.library(plain))
    found = gradients(model, micro_batch.fused(model))
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * float(one.abs().max()), msg=name)


@needs_bitsandbytes
def test_steps_on_4_bits_follow_the_librarys_curve(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    plain, fused = (_curve(adapted("qwen3", change=in_nf4), micro_batch, fused=fused) for fused in (False, True))
    assert plain[-1] < 0.5 * plain[0], "it learns"
    assert fused == pytest.approx(plain, rel=1e-3)


def _curve(model: Any, micro_batch: MicroBatch, *, fused: bool) -> list[float]:
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(STEPS):
        loss = micro_batch.fused(model) if fused else micro_batch.library(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@needs_bitsandbytes
def test_layers_in_4_bits_are_proven_and_stay_in_4_bits(adapted: MakeModel) -> None:
    model = adapted("qwen3", change=in_nf4)
    packed = {name: one.clone() for name, one in model.named_parameters() if one.dtype == torch.uint8}
    assert len(packed) == 3 * 7
    route = choose_route(model, "auto", "none", "cuda")
    assert route.line().startswith("layers: fused (proven on this model")
    assert route_of(model) is route
    now = dict(model.named_parameters())
    assert all(torch.equal(one, now[name]) for name, one in packed.items())


@needs_bitsandbytes
def test_layers_in_8_bits_keep_the_librarys_way_and_say_why(adapted: MakeModel) -> None:
    def in_int8(model: Any) -> None:
        from bitsandbytes.nn import Linear8bitLt

        for layer in model.model.layers:
            old = layer.mlp.up_proj
            layer.mlp.up_proj = Linear8bitLt(old.in_features, old.out_features, bias=False, has_fp16_weights=False)

    model = adapted("qwen3", change=in_int8, target_modules=["q_proj"])
    route = choose_route(model, "auto", "none", "cuda")
    assert route.fused is None
    assert "(model.quantisation = nf4 and fp8 are fused)" in route.why
    with pytest.raises(UserError, match=r"train\.layers = fused: the product of int8 weights"):
        choose_route(model, "fused", "none", "cuda")


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize(
    ("architecture", "lora"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {"r": 24}),
        ("qwen3", {"target_modules": ["k_proj", "down_proj"]}),
        ("qwen3", {"target_modules": ["o_proj"]}),
    ],
)
def test_loss_and_gradients_on_fp8_weights_are_the_librarys(
    adapted: MakeModel, micro_batch: MicroBatch, architecture: str, lora: dict[str, Any], checkpointing: Any
) -> None:
    plain, model = (adapted(architecture, {"head_dim": 16}, change=in_fp8, **lora) for _ in range(2))
    with unrounded_inputs():  # the two ways round in other places
        expected = micro_batch.library(plain)
        wanted = gradients(plain, expected)
        loss = micro_batch.fused(model, checkpointing)
        found = gradients(model, loss)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * float(one.abs().max()), msg=name)


def test_rounded_inputs_leave_gradients_as_near_to_the_unrounded_ones_as_the_librarys(
    adapted: MakeModel, micro_batch: MicroBatch
) -> None:
    exact = adapted("qwen3")
    wanted = gradients(exact, micro_batch.library(exact))
    plain, model = (adapted("qwen3", change=in_fp8) for _ in range(2))
    library = gradients(plain, micro_batch.library(plain))
    fused = gradients(model, micro_batch.fused(model))
    off = [
        sum(float((found[name] - one).norm() / one.norm()) for name, one in wanted.items()) / len(wanted)
        for found in (library, fused)
    ]
    assert 1e-3 < off[0] < 0.2
    assert off[1] < 1.3 * off[0]


def test_steps_on_fp8_weights_follow_those_on_unrounded_ones(adapted: MakeModel, micro_batch: MicroBatch) -> None:
    plain, fused = (_curve(adapted("qwen3", change=change), micro_batch, fused=True) for change in (None, in_fp8))
    assert plain[-1] < 0.5 * plain[0], "it learns"
    assert fused == pytest.approx(plain, rel=0.1)


def test_layers_in_fp8_are_proven_and_their_bytes_stay(adapted: MakeModel) -> None:
    model = adapted("qwen3", change=in_fp8)
    before = {name: one.clone() for name, one in model.state_dict().items() if "lora" not in name}
    route = choose_route(model, "auto", "none", "cuda")
    assert route.line().startswith("layers: fused (proven on this model")
    now = model.state_dict()
    assert all(torch.equal(one, now[name]) for name, one in before.items())
