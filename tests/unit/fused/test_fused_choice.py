"""When layers are fused, when they stay the library's and why, and when the loss is taken in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tanren.common.attention.packed import registered_name
from tanren.common.errors import UserError
from tanren.common.fused import _layer, choose_route, next_token_loss, route_of
from tanren.common.models.tiny import tiny_model

MakeModel = Callable[..., Any]
MicroBatch = Any
"""See conftest."""


def _moe(_: MakeModel) -> Any:
    model = tiny_model("tiny-qwen3-moe", torch.float32)
    model.set_attn_implementation(registered_name("sdpa"))
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


def _full(adapted: MakeModel) -> Any:
    return adapted("qwen3").get_base_model().requires_grad_(True)


def _int8(_: MakeModel) -> Any:
    from tanren.common.plan.trace import quantise

    with torch.device("meta"):
        model = tiny_model("tiny-qwen3", torch.float32)
        quantise(model, "int8")
        model.set_attn_implementation(registered_name("sdpa"))
        return get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


def _of_another_kind(adapted: MakeModel) -> Any:
    class Own(torch.nn.Linear):
        """Nobody knows what it computes."""

    model = adapted("qwen3")
    model.get_base_model().model.layers[1].mlp.up_proj.base_layer.__class__ = Own
    return model


def _of_several_forms(adapted: MakeModel) -> Any:
    class StandIn(torch.nn.Linear):
        """As the planner puts one in the place of bitsandbytes' layers."""

        stands_for = "nf4"

    model = adapted("qwen3")
    model.get_base_model().model.layers[1].mlp.up_proj.base_layer.__class__ = StandIn
    return model


def _two_adapters(adapted: MakeModel) -> Any:
    model = adapted("qwen3")
    model.add_adapter("second", LoraConfig(target_modules=["q_proj"]))
    return model


def _merged(adapted: MakeModel) -> Any:
    model = adapted("qwen3")
    model.merge_adapter()
    return model


def _unpacked(adapted: MakeModel) -> Any:
    model = adapted("qwen3")
    model.get_base_model().set_attn_implementation("eager")
    return model


REFUSED: dict[str, tuple[Callable[[MakeModel], Any], str]] = {
    "dropout": (lambda adapted: adapted("qwen3", lora_dropout=0.1), "its adapters have dropout (lora.dropout)"),
    "DoRA": (lambda adapted: adapted("qwen3", use_dora=True), "its adapters are not plain LoRA"),
    "rank 65": (lambda adapted: adapted("qwen3", r=65), "its adapters have a rank over 64"),
    "experts": (_moe, "Qwen3MoeForCausalLM is none of LlamaForCausalLM"),
    "full": (_full, "it has no adapters"),
    "int8": (_int8, "the product of int8 weights rounds its inputs to 8 bits as well"),
    "another kind of layer": (_of_another_kind, "a projection is of the kind Own"),
    "several forms": (_of_several_forms, "its projections are kept in several forms (nf4, plain)"),
    "two adapters": (_two_adapters, "its adapters are not plain LoRA"),
    "merged": (_merged, "its adapters are not plain LoRA"),
    "not packed": (_unpacked, "its attention does not take packed samples"),
    "gelu": (lambda adapted: adapted("llama", {"hidden_act": "gelu"}), "its MLP has gelu, not silu"),
    "attention dropout": (lambda adapted: adapted("llama", {"attention_dropout": 0.1}), "it has dropout on attention"),
    "output bias": (lambda adapted: adapted("llama", {"attention_bias": True}), "its output projection or its MLP has"),
    "MLP bias": (lambda adapted: adapted("llama", {"mlp_bias": True}), "its output projection or its MLP has biases"),
    "head trained": (
        lambda adapted: adapted("llama", modules_to_save=["lm_head"]),
        "more than adapters of its layers is trained (base_model.model.lm_head",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fused_keeps_the_librarys_way_and_says_why(adapted: MakeModel, case: str) -> None:
    make, told = REFUSED[case]
    model = make(adapted)
    route = choose_route(model, "auto", "none", "cuda")
    assert route.fused is None
    assert told in route.why
    assert route.line().startswith(f"layers: the library's ({told[:20]}")
    with pytest.raises(UserError, match=r"train\.layers = fused: .*; leave it at auto") as error:
        choose_route(model, "fused", "none", "cuda")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("named", "device", "fused", "in_parts", "said"),
    [
        ("auto", "cuda", True, True, "layers: fused (proven on this model: hidden states within"),
        ("fused", "cuda", True, True, "layers: fused (proven on this model: hidden states within"),
        ("fused", "cpu", True, True, "layers: fused (proven on this model: hidden states within"),
        (
            "auto",
            "cpu",
            False,
            False,
            "layers: the library's (auto fuses on a GPU; of 21 LoRA layers the products alone)",
        ),
        ("plain", "cuda", False, False, "layers: the library's (train.layers = plain)"),
    ],
)
def test_layers_are_fused_and_the_loss_taken_in_parts_where_that_was_asked_for(
    adapted: MakeModel, named: Any, device: str, fused: bool, in_parts: bool, said: str
) -> None:
    model = adapted("qwen3")
    route = choose_route(model, named, "none", device)
    assert route_of(model) is route
    assert (route.fused is not None, route.in_parts) == (fused, in_parts)
    assert route.line().startswith(said)


def test_a_model_for_which_nothing_was_chosen_goes_the_librarys_way(adapted: MakeModel) -> None:
    route = route_of(adapted("qwen3"))
    assert (route.fused, route.in_parts, route.line()) == (None, False, "layers: the library's")


def test_the_loss_of_a_model_that_is_not_fused_may_be_taken_in_parts(
    adapted: MakeModel, micro_batch: MicroBatch
) -> None:
    model = _moe(adapted)
    route = choose_route(model, "auto", "none", "cuda")
    assert (route.fused, route.in_parts) == (None, True)
    arguments = (micro_batch.positions, micro_batch.lengths, micro_batch.predicting, micro_batch.targets)
    found = next_token_loss(model, micro_batch.tokens, *arguments)
    choose_route(model, "plain", "none", "cpu")
    torch.testing.assert_close(found, next_token_loss(model, micro_batch.tokens, *arguments))
    torch.testing.assert_close(found, micro_batch.library(model))


def test_logits_that_are_more_than_a_product_are_not_taken_in_parts(
    adapted: MakeModel, micro_batch: MicroBatch
) -> None:
    model = adapted("llama", {"tie_word_embeddings": False})
    base = model.get_base_model()
    base.lm_head = torch.nn.Linear(base.config.hidden_size, base.config.vocab_size)  # with a bias
    route = choose_route(model, "auto", "none", "cuda")
    assert (route.fused, route.in_parts) == (None, False)
    loss = next_token_loss(
        model,
        micro_batch.tokens,
        micro_batch.positions,
        micro_batch.lengths,
        micro_batch.predicting,
        micro_batch.targets,
    )
    torch.testing.assert_close(loss, micro_batch.library(model))


def _gate_and_up_exchanged(gate_up: torch.Tensor, low: Any) -> torch.Tensor:
    gate, up = (gate_up.float() + low.added()).chunk(2, dim=1)
    result: torch.Tensor = torch.nn.functional.silu(up) * gate
    return result


def _adapters_left_out(gate_up: torch.Tensor, low: Any) -> torch.Tensor:
    del low
    gate, up = gate_up.chunk(2, dim=1)
    return torch.nn.functional.silu(gate) * up


@pytest.mark.parametrize("broken", [_gate_and_up_exchanged, _adapters_left_out])
def test_a_layer_that_computes_something_else_is_refused(
    adapted: MakeModel, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    monkeypatch.setattr(_layer, "swiglu", broken)
    model = adapted("qwen3")
    before = {name: one.clone() for name, one in model.state_dict().items()}
    route = choose_route(model, "auto", "none", "cuda")
    assert route.fused is None
    assert "fused layers differ from the library's on this model" in route.why
    with pytest.raises(UserError, match="fused layers differ"):
        choose_route(model, "fused", "none", "cuda")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("operation", ["rotate_backward", "rms_norm_backward"])
def test_a_backward_pass_that_computes_something_else_is_refused(
    adapted: MakeModel, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    real = getattr(_layer, operation)

    def broken(*arguments: Any) -> Any:
        made = real(*arguments)
        return (made[0].flip(1), made[1]) if isinstance(made, tuple) else made.flip(1)

    monkeypatch.setattr(_layer, operation, broken)
    route = choose_route(adapted("qwen3"), "auto", "none", "cuda")
    assert route.fused is None
    assert "in the gradients" in route.why


def test_the_proof_leaves_adapters_mode_and_gradients_as_they_were(adapted: MakeModel) -> None:
    model, untouched = adapted("qwen3"), adapted("qwen3")
    assert choose_route(model, "fused", "full", "cpu").fused is not None
    assert model.training
    for (name, one), other in zip(model.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.grad is None, name
