"""Attention over packed samples: against plain computations, within real architectures, and its refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig

from tanren.common.attention import prove_kernel, runnable_kernels, traits_of
from tanren.common.attention._by_sample import sdpa_by_sample
from tanren.common.attention._packing import Packing, Scores
from tanren.common.attention.packed import attend, inference_attention, packing_arguments, registered_name
from tanren.common.attention.training import choose_training_attention
from tanren.common.errors import MachineError, UserError
from tanren.common.models.tiny import tiny_model

ON_CPU = ("sdpa", "eager")


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: tuple[int, ...], scores: Scores
) -> torch.Tensor:
    """Softmax attention, one token of one head at a time."""
    repeats = query.shape[1] // key.shape[1]
    out = torch.zeros(1, query.shape[2], query.shape[1], value.shape[3], dtype=query.dtype)
    begin = 0
    for length in lengths:
        for place in range(begin, begin + length):
            first = max(begin, place - scores.window + 1) if scores.window else begin
            for head in range(query.shape[1]):
                keys, values = (t[0, head // repeats, first : place + 1] for t in (key, value))
                raw = (keys @ query[0, head, place]) * scores.scale
                if scores.softcap:
                    raw = scores.softcap * torch.tanh(raw / scores.softcap)
                weights = torch.exp(raw)
                sink = torch.exp(scores.sinks[head]) if scores.sinks is not None else 0.0
                out[0, place, head] = (weights[:, None] * values).sum(0) / (weights.sum() + sink)
        begin += length
    return out


def _random(heads: int, groups: int, tokens: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, heads, tokens, size, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(1, groups, tokens, size, generator=generator, dtype=torch.float64) for _ in range(2))
    return query, key, value


@pytest.mark.parametrize("kernel", ON_CPU)
@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    window=st.integers(0, 6),
    softcap=st.sampled_from([0.0, 2.0]),
    sinks=st.booleans(),
)
def test_each_packed_sample_attends_causally_to_itself_alone(
    kernel: str, lengths: list[int], window: int, softcap: float, sinks: bool
) -> None:
    query, key, value = _random(4, 2, sum(lengths))
    scores = Scores(1 / math.sqrt(8), window, softcap, torch.linspace(-1, 2, 4).double() if sinks else None)
    found = attend(kernel, query, key, value, Packing.of(lengths, "cpu"), scores)
    # written out, the softmax is made in float32
    torch.testing.assert_close(found, _plain(query, key, value, tuple(lengths), scores), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-qwen3-moe", "tiny-gpt-oss"])
@pytest.mark.parametrize("kernel", ON_CPU)
def test_a_kernel_proves_right_for_the_heads_windows_and_sinks_of_a_model(kernel: str, name: str) -> None:
    proof = prove_kernel(kernel, "cpu", traits_of(tiny_model(name, torch.float32).config), "float32")
    assert proof.good, proof
    assert proof.isolated
    assert 0 < proof.forward_error < 1e-6
    assert 0 < proof.gradient_error < 1e-6


def test_a_wrong_kernel_fails_its_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    from tanren.common.attention import packed

    def across(query: Any, key: Any, value: Any, packing: Packing, scores: Scores) -> torch.Tensor:
        return sdpa_by_sample(query, key, value, Packing.of([packing.tokens], "cpu"), scores)

    monkeypatch.setitem(packed._COMPUTE, "sdpa", across)
    proof = prove_kernel("sdpa", "cpu")
    assert not proof.good
    assert "a sample changes when another one is changed" in proof.fault
    assert "its gradient is off by" in proof.fault


def test_a_proof_leaves_the_order_of_sums_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from tanren.common.attention import packed

    seen: list[bool] = []

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return sdpa_by_sample(*arguments)

    monkeypatch.setitem(packed._COMPUTE, "sdpa", watched)
    assert prove_kernel("sdpa", "cpu", deterministic=True).good
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_a_kernel_dies_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from tanren.common.attention import packed

    def dies(*_: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\n")

    monkeypatch.setitem(packed._COMPUTE, "sdpa", dies)
    assert prove_kernel("sdpa", "cpu").fault == "RuntimeError: no kernel image is available"


def test_the_cpu_runs_what_needs_no_gpu() -> None:
    assert runnable_kernels("cpu") == ON_CPU


@pytest.mark.parametrize("window", [0, 16])
@pytest.mark.parametrize("sinks", [False, True])
def test_torchs_flash_kernel_takes_what_is_handed_to_it(sinks: bool, window: int) -> None:
    """Without a GPU: the signatures of this torch, by tensors without data."""
    query, key, value = (
        torch.empty(1, heads, 40, 64, dtype=torch.bfloat16, device="meta", requires_grad=True) for heads in (8, 2, 2)
    )
    learned = torch.empty(8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    scores = Scores(0.125, window, sinks=learned if sinks else None)
    out = attend("varlen", query, key, value, Packing((30, 10), torch.empty(3, device="meta")), scores)
    assert out.shape == (1, 40, 8, 64)
    inputs = [query, key, value, *([learned] if sinks else [])]
    gradients = torch.autograd.grad(out, inputs, torch.empty_like(out))
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs]


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "phi3": {"sliding_window": 16},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 16},
    "olmo2": {},
    "glm4": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
}


def _model(kind: str) -> PreTrainedModel:
    config = AutoConfig.for_model(
        kind,
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=0,
        **ARCHITECTURES[kind],
    )
    torch.manual_seed(5)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model.train()
    return model


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_logits_and_gradients_of_an_architecture_are_those_of_eager_attention_alone(kind: str) -> None:
    generator = torch.Generator().manual_seed(6)
    samples = [torch.randint(0, 97, (1, length), generator=generator) for length in (40, 1, 23)]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return logits.float().log_softmax(-1)[..., 7].sum()

    alone = _model(kind)
    sum((loss(alone(input_ids=ids, use_cache=False).logits) for ids in samples), torch.zeros(())).backward()
    packed = _model(kind)
    choice = choose_training_attention(packed)
    assert (choice.kernel, choice.packs) == ("sdpa", True)
    lengths = [ids.shape[1] for ids in samples]
    logits = packed(
        input_ids=torch.cat(samples, dim=1),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        use_cache=False,
        **packing_arguments(lengths, "cpu"),
    ).logits
    loss(logits).backward()
    gradients = dict(packed.named_parameters())
    for name, parameter in alone.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            continue
        found = gradients[name].grad
        assert found is not None, name
        assert (found - parameter.grad).norm() <= 2e-4 * parameter.grad.norm(), name
    if kind == "gpt_oss":
        assert any(name.endswith("sinks") and p.grad is not None and p.grad.any() for name, p in gradients.items())


def test_a_model_that_drops_the_lengths_is_refused() -> None:
    model = _model("llama")
    for layer in model.model.layers:
        inner = layer.self_attn.forward
        layer.self_attn.forward = lambda *a, packing=None, inner=inner, **k: inner(
            *a, **k, packing=Packing.of([sum(packing.lengths)], "cpu") if packing else None
        )
    with pytest.raises(MachineError, match="packed samples differ from the model's own attention"):
        choose_training_attention(model)


def test_a_model_with_recurrent_layers_takes_one_sample_per_pass() -> None:
    config = AutoConfig.for_model(
        "qwen3_next",
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )
    model = AutoModelForCausalLM.from_config(config)
    choice = choose_training_attention(model)
    assert (choice.kernel, choice.packs) == (model.config._attn_implementation, False)
    assert "layers of linear attention: its own attention, one sample per pass" in choice.reason
    with pytest.raises(UserError, match="leave the choice to 'auto'"):
        choose_training_attention(model, "sdpa")


def test_a_padded_batch_is_refused(tiny_qwen3: PreTrainedModel) -> None:
    tiny_qwen3.set_attn_implementation(registered_name("sdpa"))
    mask = torch.tensor([[0, 1, 1]])
    with pytest.raises(ValueError, match="padded batch"):
        tiny_qwen3(input_ids=torch.tensor([[0, 5, 6]]), attention_mask=mask, **packing_arguments([3], "cpu"))


def test_packed_attention_without_lengths_is_refused(tiny_qwen3: PreTrainedModel) -> None:
    tiny_qwen3.set_attn_implementation(registered_name("sdpa"))
    with pytest.raises(AssertionError, match="needs the samples' lengths"):
        tiny_qwen3(input_ids=torch.tensor([[5, 6]]))


@pytest.mark.parametrize(("name", "expected"), [("tiny-qwen3", "sdpa"), ("tiny-gpt-oss", "eager")])
def test_inference_takes_an_attention_that_knows_padding_and_gives_the_packed_one_back(
    name: str, expected: str
) -> None:
    model = tiny_model(name, torch.float32)
    choose_training_attention(model)
    with inference_attention(model) as kernel:
        assert model.config._attn_implementation == kernel == expected
    assert model.config._attn_implementation == registered_name("sdpa")
    with inference_attention(model, "eager") as kernel:
        assert model.config._attn_implementation == kernel == "eager"


def test_a_named_kernel_that_fails_its_proof_is_an_error_and_auto_steps_down(
    tiny_qwen3: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tanren.common.attention import packed

    monkeypatch.setitem(
        packed._COMPUTE, "eager", lambda q, k, v, *_: (q * k.sum() * v.sum()).transpose(1, 2) * math.nan
    )
    with pytest.raises(UserError, match="'eager' was named, and its proof failed: its output is off by nan"):
        choose_training_attention(tiny_qwen3, "eager")
    assert choose_training_attention(tiny_qwen3).kernel == "sdpa"
