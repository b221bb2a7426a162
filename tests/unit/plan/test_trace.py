"""The trace of a training step, against real tensors and sums made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM

from tanren.common.config import Checkpointing
from tanren.common.fused import route_of
from tanren.common.models.checkpointing import enable_checkpointing
from tanren.common.models.tiny import tiny_model
from tanren.common.plan import Choice, Load
from tanren.common.plan.trace import Account, attended_pairs
from tanren.sft.loss import packed_loss
from tanren.sft.planner import SftJob, stand_in

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]
MakeJob = Callable[..., SftJob]
BLOCK = 512


def _rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


@pytest.fixture
def tiny_llama(tmp_path: Path) -> str:
    """Return the folder of a small Llama's configuration."""
    values = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    values |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 259, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return str(tmp_path)


@pytest.mark.parametrize("model", ["tiny-qwen3", "tiny-qwen3-moe", "tiny-gpt-oss"])
def test_parameters_and_weights_are_those_of_the_real_model(job: MakeJob, model: str) -> None:
    trace = job(f"builtin:{model}", train={"layers": "plain"}).trace(Choice(400, "none"))
    real = tiny_model(model, torch.bfloat16)
    assert trace.parameters - trace.trained == sum(parameter.numel() for parameter in real.parameters())
    sizes = [one.numel() * one.element_size() for one in (*real.parameters(), *real.buffers())]
    assert trace.peak["weights"] == sum(map(_rounded, sizes))


def test_lora_is_counted_in_float32_with_two_states_and_a_count_for_each_matrix(job: MakeJob) -> None:
    trace = job(lora={"rank": 4, "target_modules": ["q_proj"]}).trace(Choice(400, "none"))
    # 2 layers, each with (4, 64) and (64, 4): float32, so 1024 bytes a matrix
    assert trace.trained == 2 * 2 * 4 * 64
    assert trace.peak["trained"] == 4 * 1024
    assert trace.peak["optimizer"] == 4 * (2 * 1024 + BLOCK)


@pytest.mark.parametrize(
    ("model", "layers", "mode"),
    [
        ("tiny-qwen3", "plain", "none"),
        ("tiny-qwen3-moe", "plain", "none"),
        ("tiny-qwen3-moe", "auto", "none"),  # the loss in parts, after the library's layers and grouped experts
        ("tiny-gpt-oss", "auto", "full"),
        ("tiny-qwen3", "plain", "full"),
        ("tiny-qwen3", "fused", "none"),
        ("tiny-qwen3", "fused", "selective"),
        ("tiny-qwen3", "fused", "full"),
        ("tiny-llama", "fused", "none"),  # no norms on queries and keys: what stands before them is not kept
        ("tiny-llama", "fused", "selective"),
    ],
)
def test_what_the_forward_pass_keeps_is_what_autograd_saves_on_real_tensors(
    job: MakeJob, tiny_llama: str, model: str, layers: str, mode: Checkpointing
) -> None:
    # eager attention is made of ordinary operations, so that trace and run do the very same
    name = tiny_llama if model == "tiny-llama" else f"builtin:{model}"
    planned = job(name, [120, 60], train={"attention": "eager", "layers": layers})
    load, choice = Load((120, 60), 90), Choice(200, mode)
    loaded = AutoModelForCausalLM.from_config(planned.shape.config, dtype=torch.bfloat16)
    real = planned.trained_model(loaded, choice)
    assert route_of(real).in_parts == (layers != "plain")
    assert (route_of(real).fused is not None) == (layers == "fused")
    held = {one.untyped_storage().data_ptr() for one in (*real.parameters(), *real.buffers())}
    saved: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = _rounded(storage.nbytes())
            kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = packed_loss(real, stand_in(load), "cpu")
    found = _alive_after_forward(planned, load, choice)
    assert loss.isfinite()
    # Besides what autograd saves, the loss itself is alive; and what a checkpoint hands to the second run (positions,
    # the lengths of the samples), which no hook sees.
    assert sum(saved.values()) <= found <= 1.03 * sum(saved.values()) + (20 * BLOCK if mode == "full" else 0)


def _alive_after_forward(planned: SftJob, load: Load, choice: Choice) -> int:
    from tanren.common.plan.trace import attention_stands_in, empty_model

    account = Account()
    with attention_stands_in(planned.kernel, load.lengths):
        model = planned.trained_model(empty_model(planned.shape, planned.dtype), choice)
        account.hold([*model.parameters(), *model.buffers()], "weights")
        account.category = "made"
        with account:
            loss = planned.loss(load)(model, torch.device("meta"))
        assert loss.requires_grad
        return account.live["made"]


def test_a_storage_is_counted_once_and_until_nothing_holds_it() -> None:
    account = Account()
    with account:
        first = torch.empty(1000, device="meta")  # 4000 bytes: 8 blocks
        view = first[10:]
        second = first * 2
        assert sum(account.live.values()) == 2 * 4096
        del first
        assert sum(account.live.values()) == 2 * 4096  # the view holds it
        del view, second
    assert sum(account.live.values()) == 0
    assert account.peak_bytes == 2 * 4096


def test_the_peak_is_remembered_with_its_categories() -> None:
    account = Account()
    with account:
        account.category = "one"
        kept = torch.empty(512, dtype=torch.uint8, device="meta")
        account.category = "two"
        torch.empty(5120, dtype=torch.uint8, device="meta")
        account.category = "three"
        torch.empty(1024, dtype=torch.uint8, device="meta")
    assert kept.is_meta
    assert {name: size for name, size in account.peak.items() if size} == {"one": 512, "two": 5120}
    assert account.largest == 5120


def test_grouped_experts_take_no_merged_weights(job: MakeJob) -> None:
    lora = {"rank": 8, "target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    kept = {}
    for experts in ("plain", "grouped"):
        planned = job("builtin:tiny-qwen3-moe", [64], lora=lora, train={"experts": experts, "layers": "plain"})
        kept[experts] = _alive_after_forward(planned, Load((64,), 8), Choice(64, "none"))
    merged = 2 * 2 * 4 * (128 + 64) * 64  # 2 layers, 2 bytes, 4 experts, gate and up of 2 x 64 and down of 64 by 64
    assert kept["plain"] - kept["grouped"] > merged


def test_products_of_adapters_on_grouped_experts_are_counted(job: MakeJob) -> None:
    flops = []
    for experts in ([], ["experts.gate_up_proj", "experts.down_proj"]):
        lora = {"rank": 8, "target_modules": ["q_proj"], "target_parameters": experts}
        flops.append(job("builtin:tiny-qwen3-moe", [64], lora=lora).trace(Choice(64, "none")).flops)
    # 2 layers, 2 experts a token, rank 8. Of gate and up: into the adapter, its two gradients, into it from above; of down: into
    # and out of it, its B's gradient, into it from above. What the gate's kernels do in passing is bound by memory: not counted.
    assert flops[1] - flops[0] == 2 * 2 * (2 * 64) * 8 * (64 + 64 + 64 + 128 + 4 * 64)


@pytest.mark.parametrize("layers", ["plain", "fused"])
def test_checkpointing_takes_less_and_computes_more(job: MakeJob, wide: str, layers: str) -> None:
    planned = job(wide, train={"layers": layers})
    traces = {mode: planned.trace(Choice(1024, mode)) for mode in ("none", "selective", "full")}
    activations = [traces[mode].peak["activations"] for mode in ("none", "selective", "full")]
    assert activations[0] > 1.8 * activations[1] > 1.8 * 5 * activations[2]
    flops = [traces[mode].flops for mode in ("none", "selective", "full")]
    assert flops[0] < flops[1] < flops[2]
    # LoRA: forward, backward to the inputs, and again the layers' forward; their weights get no gradient
    assert 1.3 < flops[2] / flops[0] < 1.5


def test_fused_layers_keep_what_their_backward_pass_cannot_make_anew(job: MakeJob, wide: str) -> None:
    tokens, layers = 512, 4
    planned = job(wide, [tokens], train={"layers": "fused"})
    # elements of 2 bytes a token and layer: what goes into attention and MLP (1024 each), query, key and value before and
    # after their norm (1024 + 2 x 512 each), what was attended (1024), 7 adapters of rank 16; gate and up (2 x 3072)
    low = 3 * 16 + 16 + 2 * 16 + 16
    always = 2 * 1024 + 2 * 2048 + 1024
    expected: dict[Checkpointing, int] = {
        "none": always + low + 2 * 3072,
        "selective": always + low - 2 * 16,
        "full": 1024,
    }
    for mode, elements in expected.items():
        # and once a token: cosines and sines of the positions (2 x 128), the last norm's input (1024), the gradient of
        # its result (1024), which is made with the loss
        by_hand = 2 * tokens * (layers * elements + 2 * 128 + 2 * 1024)
        if mode != "full":
            by_hand += 4 * tokens * layers * 8  # the attention's sum of exponents in float32, 8 heads
        found = _alive_after_forward(planned, Load((tokens,), 200), Choice(tokens, mode))
        assert found == pytest.approx(by_hand, rel=0.01), mode


def test_fused_layers_multiply_by_frozen_weights_twice_and_take_weight_gradients_of_adapters_alone(
    job: MakeJob, wide: str
) -> None:
    one = job(wide, [512], lora={"rank": 1}, train={"layers": "fused"})
    trace = one.trace(Choice(512, "none"))
    config = one.shape.config
    head = config.vocab_size * config.hidden_size
    body = trace.parameters - trace.trained - head
    attention = 14 * config.num_hidden_layers * config.hidden_size * (512 * 513 / 2)
    assert trace.flops == pytest.approx(4 * 512 * body + 4 * 256 * head + attention, rel=0.02)


def test_blocks_that_fused_layers_hold_beside_the_weights_are_there_between_the_steps(job: MakeJob, wide: str) -> None:
    fused, plain = (job(wide, train={"layers": layers}).trace(Choice(1024, "none")) for layers in ("fused", "plain"))
    # A and B of rank 16 in 2 bytes, for all that one input goes into; B on the diagonal of a matrix
    blocks = 3 * 16 * (1024 + 2048) + 16 * (1024 + 1024) + 2 * 16 * (1024 + 2 * 3072) + 16 * (3072 + 1024)
    assert fused.peak["weights"] - plain.peak["weights"] == 4 * 2 * blocks
    assert fused.resident - plain.resident == 4 * 2 * blocks


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_changes_neither_loss_nor_gradients_in_a_single_bit(job: MakeJob, mode: Any) -> None:
    found = []
    for checkpointing in ("none", mode):
        model = job(train={"attention": "sdpa"}).prepare(tiny_model("tiny-qwen3", torch.float32))
        model.train()
        enable_checkpointing(model, checkpointing)
        loss = packed_loss(model, stand_in(Load((40, 25), 30)), "cpu")
        loss.backward()
        found.append((loss, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}))
    (loss, gradients), (again, same) = found
    assert torch.equal(loss, again)
    assert gradients.keys() == same.keys()
    assert all(torch.equal(gradient, same[name]) for name, gradient in gradients.items())


def test_flops_of_full_training_are_six_for_each_parameter_and_token(job: MakeJob, wide: str) -> None:
    class Full(SftJob):
        def prepare(self, model: Any) -> Any:
            self.set_attention(model)
            return model.requires_grad_(True)

    one = job(wide, [512])
    full = Full(one.shape, one.dtype, one.kernel, one.plan, one.samples)
    trace = full.trace(Choice(512, "none"))
    config = one.shape.config
    head = config.vocab_size * config.hidden_size  # computed for the 256 learned tokens alone; the embedding for none
    body = trace.parameters - head
    attention = 14 * config.num_hidden_layers * config.hidden_size * (512 * 513 / 2)  # 2 products forward, 5 backward
    assert trace.flops == pytest.approx(6 * 512 * body + 6 * 256 * head + attention, rel=0.01)


@pytest.mark.parametrize(
    ("lengths", "window", "expected"),
    [([4], None, 1 + 2 + 3 + 4), ([2, 3], None, 3 + 6), ([5], 2, 1 + 2 + 2 + 2 + 2), ([2], 8, 3)],
)
def test_attended_pairs_are_those_under_the_diagonal_and_within_the_window(
    lengths: list[int], window: int | None, expected: float
) -> None:
    assert attended_pairs(lengths, window) == expected


def test_the_gradients_of_an_earlier_micro_batch_are_there_when_a_later_one_runs(job: MakeJob) -> None:
    lora = {"rank": 256}  # so large that they matter
    one = job(lengths=[300] * 8, lora=lora, train={"rows_per_step": 1}).trace(Choice(300, "none"))
    several = job(lengths=[300] * 8, lora=lora, train={"rows_per_step": 4}).trace(Choice(300, "none"))
    assert several.peak["gradients"] == several.peak["trained"]
    assert one.peak.get("gradients", 0) < several.peak["gradients"]
    assert several.peak_bytes > one.peak_bytes
