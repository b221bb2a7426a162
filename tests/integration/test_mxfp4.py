"""MXFP4 checkpoints, as gpt-oss is published: turned back into weights that can be trained, exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tanren.common.errors import UserError
from tanren.common.models.device import DevicePlan
from tanren.common.models.load import load_model
from tanren.common.models.source import resolve_source
from tanren.common.models.tiny import tiny_model, tiny_tokenizer

from .conftest import Command
from .grpo_runs import numbers_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
# OCP Microscaling Formats (MX) v1.0: FP4 E2M1 has sign, two bits of exponent with bias 1, one of mantissa.
E2M1 = [
    (-1) ** (code >> 3) * (code & 1 if code & 6 == 0 else 2 + (code & 1)) * 2 ** max(0, ((code >> 1) & 3) - 1) / 2
    for code in range(16)
]
BLOCK = 32
"""Values that share a scale, a power of two in 8 bits (E8M0, bias 127)."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a folder with a tiny gpt-oss whose experts are stored as random MXFP4, and what these say, by name."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("mxfp4")
    tiny_model("tiny-gpt-oss", torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    said = {}
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = weights.pop(name).shape
        blocks = torch.randint(
            0, 256, (experts, outputs, inputs // BLOCK, BLOCK // 2), dtype=torch.uint8, generator=generator
        )
        scales = torch.randint(118, 124, (experts, outputs, inputs // BLOCK), dtype=torch.uint8, generator=generator)
        weights[f"{name}_blocks"], weights[f"{name}_scales"] = blocks, scales
        said[name] = _values(blocks, scales)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.embed_tokens", "lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder, said


def _values(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What the format says, value by value: (experts, inputs, outputs), float64. Low nibble first."""
    experts, outputs, groups, _ = blocks.shape
    found = torch.empty((experts, groups * BLOCK, outputs), dtype=torch.float64)
    for expert in range(experts):
        for output in range(outputs):
            column = [
                E2M1[code] * 2.0 ** (scale - 127)
                for block, scale in zip(blocks[expert, output].tolist(), scales[expert, output].tolist(), strict=True)
                for byte in block
                for code in (byte & 15, byte >> 4)
            ]
            found[expert, :, output] = torch.tensor(column, dtype=torch.float64)
    return found


def test_a_dequantised_model_is_saved_with_all_its_experts(
    stored: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    source, device = resolve_source(str(stored[0])), DevicePlan("cpu", "float32", 1, "")
    loaded = load_model(source, device)
    loaded.model.save_pretrained(tmp_path / "saved")
    again = load_model(resolve_source(str(tmp_path / "saved")), device)
    assert not again.notes  # it is no MXFP4 checkpoint any more
    found = dict(again.model.named_parameters())
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(found[name], weight), name


def test_the_values_of_the_format_are_those_of_its_table() -> None:
    assert E2M1 == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_mxfp4_checkpoint_is_dequantised_exactly_to_the_planned_precision(
    stored: tuple[Path, dict[str, torch.Tensor]], dtype: str
) -> None:
    folder, said = stored
    plan = DevicePlan("cpu", dtype, 1, "test")
    loaded = load_model(resolve_source(str(folder)), plan)
    weights = dict(loaded.model.named_parameters())
    assert {weight.dtype for weight in weights.values()} == {plan.torch_dtype}
    assert len(said) == 4
    for name, values in said.items():
        assert torch.equal(weights[name].double(), values)
    assert loaded.provenance["dequantised_from"] == "mxfp4"
    assert loaded.notes == (f"the checkpoint is stored as mxfp4: dequantised to {dtype} for training",)


def test_an_mxfp4_checkpoint_trains_its_experts_and_says_so(
    stored: tuple[Path, dict[str, torch.Tensor]], work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = ("--lora.target-parameters", "1.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj")
    named = ("--model.name", stored[0], "--lora.target-modules", "q_proj", *experts, "--lora.dropout", "0")
    assert (
        train_sft("tiny.toml", *named, "--train.max-steps", "1", "--model.threads", "1", "--output.run-dir", "run") == 0
    )
    said = capsys.readouterr().err
    assert "stored as mxfp4: dequantised to" in said
    assert "and 2 of 4 fused tensors of experts" in said
    assert "step 1: all 8 trained tensors received a gradient" in said
    provenance = json.loads((work / "run" / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["base_model"]["dequantised_from"] == "mxfp4"


def test_grpo_learns_on_an_mxfp4_checkpoint_with_adapters_on_attention_head_and_experts(
    stored: tuple[Path, dict[str, torch.Tensor]],
    letters: Path,
    train_grpo: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """gpt-oss as it is published, with its attention sinks and windows, from the stored weights to an adapter."""
    adapted = ("--lora.target-modules", "q_proj", "o_proj", "lm_head")
    experts = ("--lora.target-parameters", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    named = ("--model.name", stored[0], *adapted, *experts, "--lora.dropout", "0", "--output.run-dir", "run")
    assert train_grpo("letters.toml", *named) == 0
    said = capsys.readouterr().err
    assert "stored as mxfp4: dequantised to" in said
    assert "and 4 of 4 fused tensors of experts" in said
    steps = numbers_of(letters / "run")
    rewards = [step["reward"] for step in steps]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    # What generates reads the cache token by token, what learns reads packed samples behind one prompt: float32 on both sides.
    assert max(step["log_prob_gap_largest"] or 0.0 for step in steps) < 1e-3
    provenance = json.loads((letters / "run" / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["base_model"]["dequantised_from"] == "mxfp4"


def test_another_stored_format_and_a_second_quantisation_are_refused(
    stored: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    config = json.loads((stored[0] / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    plan = DevicePlan("cpu", "float32", 1, "test")
    with pytest.raises(UserError, match="is stored as fp8, and only mxfp4 is turned back"):
        load_model(resolve_source(str(tmp_path)), plan)
