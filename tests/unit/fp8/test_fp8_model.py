"""Models put into 8-bit floating point: which layers, on which devices, and what is said of the cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.chain import Link
from tanren.common.chat import Sample
from tanren.common.config import LoraConfig
from tanren.common.errors import UserError
from tanren.common.fp8 import Fp8Linear, first_rows, quantise_model, require_fp8
from tanren.common.lora import attach_adapter
from tanren.common.models.device import DevicePlan
from tanren.common.models.load import load_model
from tanren.common.models.merging import with_parents
from tanren.common.models.source import resolve_source
from tanren.common.models.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = DevicePlan("cpu", "float32", 1, "test")


def _samples(*lengths: int) -> list[Sample]:
    return [
        Sample(str(length), list(range(3, 3 + length)), [place > 4 for place in range(length)], "")
        for length in lengths
    ]


@pytest.mark.parametrize(("name", "layers"), [("tiny-qwen3", 14), ("tiny-qwen3-moe", 8), ("tiny-gpt-oss", 8)])
def test_all_linear_layers_but_the_output_head_are_put_into_8_bits(name: str, layers: int) -> None:
    found = load_model(resolve_source(f"builtin:{name}"), CPU, "fp8")
    model: Any = found.model
    assert sum(isinstance(module, Fp8Linear) for module in model.modules()) == layers
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert found.provenance["quantisation"] == "fp8"
    assert found.notes[0].startswith(
        f"fp8: {layers} linear layers in 8 bits (float8_e4m3fn, one scale for each output)"
    )
    assert ("4 fused tensors of experts" in found.notes[0]) == (name != "tiny-qwen3")


def test_the_cost_is_that_of_the_rounded_model_against_the_unrounded_one() -> None:
    samples = _samples(30, 12, 45)
    exact: Any = tiny_model("tiny-qwen3", torch.float32)
    found = load_model(resolve_source("builtin:tiny-qwen3"), CPU, "fp8", first_rows(samples))
    rounded: Any = found.model
    hidden, losses = [], []
    for model in (exact, rounded):
        outputs, total, learned = [], 0.0, 0
        for sample in samples:  # one by one, without padding
            with torch.no_grad():
                made = model(input_ids=torch.tensor([sample.input_ids]), output_hidden_states=True)
            outputs.append(made.hidden_states[-1][0])
            targets = torch.tensor(sample.input_ids[5:])
            total += float(torch.nn.functional.cross_entropy(made.logits[0, 4:-1], targets, reduction="sum"))
            learned += len(targets)
        hidden.append(torch.cat(outputs))
        losses.append(total / learned)
    assert found.cost["tokens"] == 87
    assert found.cost["hidden"] == pytest.approx(float((hidden[1] - hidden[0]).norm() / hidden[0].norm()), rel=1e-3)
    assert [found.cost["loss_before"], found.cost["loss_after"]] == pytest.approx(losses, rel=1e-4)
    assert 1e-3 < found.cost["hidden"] < 0.2
    assert "on the first rows (87 tokens): hidden states" in found.notes[1]


def test_the_same_weights_come_out_whether_the_cost_is_measured_or_not() -> None:
    source = resolve_source("builtin:tiny-qwen3")
    one, other = (load_model(source, CPU, "fp8", batch).model for batch in (None, first_rows(_samples(20))))
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_cost_is_measured_on_as_many_rows_as_are_small_and_on_the_beginning_of_a_long_one() -> None:
    assert first_rows(_samples(*[100] * 50)).input_ids.shape == (20, 100)
    assert first_rows(_samples(1000, 900, 5)).input_ids.shape == (2, 1000)
    long = first_rows(_samples(5000, 10))
    assert long.input_ids.shape == (1, 2048)
    assert int(long.is_learned.sum()) == 2048 - 5


def test_layers_whose_widths_the_matrix_units_do_not_take_and_routers_stay() -> None:
    model: Any = tiny_model("tiny-qwen3", torch.float32)
    layers = model.model.layers
    layers[0].mlp.extra, layers[1].mlp.gate = torch.nn.Linear(64, 24), torch.nn.Linear(64, 32)
    made = quantise_model(model, "cpu")
    assert (made.layers, made.left) == (14, 2)
    assert type(layers[0].mlp.extra) is type(layers[1].mlp.gate) is torch.nn.Linear


def test_a_model_without_such_a_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tanren.common.fp8 import _model

    monkeypatch.setattr(_model, "ALIGNED", 1000)
    with pytest.raises(UserError, match=r"model\.quantisation = fp8 reaches no linear layer of Qwen3ForCausalLM"):
        load_model(resolve_source("builtin:tiny-qwen3"), CPU, "fp8")


def test_adapters_are_in_float32_and_not_rounded_to_8_bits() -> None:
    plain = attach_adapter(_seeded(tiny_model("tiny-qwen3", torch.float32)), LoraConfig(rank=4))
    model = attach_adapter(
        _seeded(load_model(resolve_source("builtin:tiny-qwen3"), CPU, "fp8").model), LoraConfig(rank=4)
    )
    expected = {name: one for name, one in plain.named_parameters() if one.requires_grad}
    found = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert found.keys() == expected.keys()
    assert all(one.dtype == torch.float32 and torch.equal(one, expected[name]) for name, one in found.items())


def test_a_parent_is_merged_before_anything_is_rounded(tmp_path: Path) -> None:
    parent = attach_adapter(_seeded(tiny_model("tiny-qwen3", torch.float32)), LoraConfig(rank=4))
    for name, weight in parent.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    parent.save_pretrained(str(tmp_path))
    expected: Any = parent.merge_and_unload()
    quantise_model(expected, "cpu")
    loaded = load_model(resolve_source("builtin:tiny-qwen3"), CPU)
    link = Link(tmp_path, "0", "0", "run", "recipe", 4, "float32")
    found = with_parents(loaded, [link], CPU, "fp8", first_rows(_samples(20)))
    assert found.provenance["quantisation"] == "fp8"
    assert found.cost["tokens"] == 20
    ids = torch.arange(3, 40)[None]
    model: Any = found.model
    torch.testing.assert_close(model(input_ids=ids).logits, expected(input_ids=ids).logits, rtol=1e-3, atol=1e-4)


def _seeded(model: Any) -> Any:
    torch.manual_seed(4)
    return model


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((8, 6), torch.bfloat16, r"compute capability 8\.9 or newer, and a card has 8\.6; take nf4"),
        ((9, 0), torch.float32, r"computes in bfloat16 on a GPU, and model\.dtype = float32 was asked for"),
        ((8, 9), torch.bfloat16, None),
        ((10, 3), torch.bfloat16, None),
        (None, torch.float32, None),
    ],
)
def test_a_gpu_without_8_bit_matrix_units_is_refused(
    capability: tuple[int, int] | None, dtype: torch.dtype, said: str | None
) -> None:
    if said is None:
        require_fp8(capability, "a card", dtype)
        return
    with pytest.raises(UserError, match=said):
        require_fp8(capability, "a card", dtype)
