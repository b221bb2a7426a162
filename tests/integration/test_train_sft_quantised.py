"""Frozen layers in 4 and 8 bits: the right values, the right gradients, and what a run says and records."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.chat import Sample
from tanren.common.config import LoraConfig, Quantisation
from tanren.common.lora import attach_adapter
from tanren.common.models.device import DevicePlan
from tanren.common.models.load import load_model
from tanren.common.models.source import resolve_source
from tanren.common.models.tiny import tiny_model
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch

from .conftest import Command, steps_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed (it is in the GPU locks)")
CPU = DevicePlan("cpu", "float32", 1, "test")
# NormalFloat, Dettmers et al. 2023 (arXiv:2305.14314), appendix E.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def _quantised(quantisation: Quantisation) -> Any:
    return load_model(resolve_source("builtin:tiny-qwen3"), CPU, quantisation).model


def _weight(layer: Any) -> torch.Tensor:
    """What a layer multiplies with, (outputs, inputs): its answer to the unit vectors."""
    layer.train()
    with torch.no_grad():
        found: torch.Tensor = layer(torch.eye(layer.in_features)).T.contiguous()
    return found


def _layers(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if type(module).__name__.startswith("Linear")}


@needs_bitsandbytes
@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_values_are_those_that_the_papers_define(quantisation: Quantisation) -> None:
    exact: Any = tiny_model("tiny-qwen3", torch.float32)
    found = _quantised(quantisation)
    codes = torch.tensor(NF4)
    layers = _layers(found)
    assert len(layers) == 15
    for name, layer in layers.items():
        weight, kept = exact.get_submodule(name).weight.detach(), _weight(layer)
        if name == "lm_head":
            assert torch.equal(weight, kept)
        elif quantisation == "int8":  # one scale for each output: its largest weight is 127
            scale = weight.abs().amax(dim=1, keepdim=True) / 127
            assert float(((kept - weight).abs() / scale).max()) < 0.5 + 127 / 2**11  # rounded to float16 before
        else:  # one scale for 64 weights, itself rounded to 8 bits
            blocks = weight.reshape(-1, 64)
            scale = blocks.abs().amax(dim=1, keepdim=True)
            nearest = codes[((blocks / scale)[..., None] - codes).abs().argmin(-1)] * scale
            assert float(((kept.reshape(-1, 64) - nearest).abs() / scale).max()) < 0.02


@needs_bitsandbytes
@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_gradients_pass_the_frozen_layers_also_after_an_evaluation(quantisation: Quantisation) -> None:
    """On a CPU bitsandbytes packs 4-bit weights anew at the first pass outside training; gradients must not end there."""
    found = _quantised(quantisation)
    plain: Any = tiny_model("tiny-qwen3", torch.float32)
    for name, layer in _layers(found).items():
        plain.get_submodule(name).weight.data = _weight(layer)
    sample = Sample("r", list(range(3, 40)), [index > 8 for index in range(37)], "")
    results: list[tuple[float, dict[str, torch.Tensor]]] = []
    for model in (found, plain):
        model.eval()
        with torch.no_grad():
            model(input_ids=torch.tensor([sample.input_ids]))
        torch.manual_seed(5)
        adapted = attach_adapter(model, LoraConfig(rank=4))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
        adapted.train()
        loss = packed_loss(adapted, MicroBatch((sample,)), "cpu")
        loss.backward()
        trained = {name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad}
        results.append((float(loss.detach()), trained))
    (measured, gradients), (expected, right) = results
    assert measured == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == right.keys()
    for name, gradient in gradients.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, right[name], rtol=1e-3, atol=1e-4 * float(right[name].abs().max()))


@pytest.mark.parametrize(
    ("quantisation", "said", "layers"),
    [
        pytest.param("nf4", "14 linear layers in 4 bits", "fused", marks=needs_bitsandbytes),
        pytest.param("int8", "14 linear layers in 8 bits", "plain", marks=needs_bitsandbytes),
        ("fp8", "14 linear layers in 8 bits", "fused"),
    ],
)
def test_a_run_on_quantised_layers_says_it_records_it_and_resumes_bit_for_bit(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], quantisation: str, said: str, layers: str
) -> None:
    named = (
        "tiny.toml",
        "--model.threads",
        "1",
        "--model.quantisation",
        quantisation,
        "--train.layers",
        layers,
        "--lora.dropout",
        "0.0" if layers == "fused" else "0.1",
        "--train.max-steps",
        "4",
        "--checkpoint.every-steps",
        "2",
    )
    assert train_sft(*named, "--output.run-dir", "run") == 0
    printed = capsys.readouterr().err
    assert said in printed
    assert "embeddings, norms, output head in" in printed
    assert "inputs will be cast" not in printed
    assert f"layers: {'fused (proven' if layers == 'fused' else 'the library'}" in printed
    assert ("fp8 costs, on the first rows" in printed) == (quantisation == "fp8")
    run = work / "run"
    for path in (run / "environment.json", run / "adapter" / "provenance.json"):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        assert recorded.get("model", recorded.get("base_model"))["quantisation"] == quantisation
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    costs = [event for event in events if event["kind"] == "quantisation_cost"]
    assert [set(one) - {"kind", "time"} for one in costs] == (
        [{"tokens", "hidden", "loss_before", "loss_after"}] if quantisation == "fp8" else []
    )
    trained = {weight.dtype for weight in _adapter(run).values()}
    assert trained == {torch.float32}
    expected, weights = steps_of(run), (run / "adapter" / "adapter_model.safetensors").read_bytes()
    summary = run / "summary.json"
    summary.write_text(summary.read_text(encoding="utf-8").replace('"done"', '"interrupted"'), encoding="utf-8")
    assert train_sft(*named, "--resume", "run") == 0
    assert steps_of(run) == expected
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def _adapter(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "adapter" / "adapter_model.safetensors")


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_where_bitsandbytes_is_missing_the_environments_that_have_it_are_named(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--model.quantisation", "nf4", "--output.run-dir", "run") == 2
    said = capsys.readouterr().err
    assert "model.quantisation = nf4 needs bitsandbytes, which is not installed here; the environments b300" in said
    assert not (work / "run").exists()
