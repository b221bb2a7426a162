"""Mixtures of experts: adapters on fused experts train, and what would pass the experts by is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
ATTENTION = ("--lora.target-modules", "q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = ("--lora.target-parameters", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@pytest.mark.parametrize("model", ["builtin:tiny-gpt-oss", "builtin:tiny-qwen3-moe"])
def test_adapters_on_fused_experts_train_packed_samples(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    named = ("--model.name", model, *ATTENTION, *EXPERTS, "--lora.dropout", "0")
    fast = ("--train.max-steps", "30", "--optim.lr", "3e-2", "--model.dtype", "float32")
    assert train_sft("tiny.toml", *named, *fast, "--output.run-dir", "run") == 0
    said = capsys.readouterr().err
    assert "4 of 4 fused tensors of experts" in said
    assert "step 1: all 24 trained tensors received a gradient" in said
    assert "attention: sdpa" in said
    assert "experts: grouped (proven on this model: results within" in said
    summary = json.loads((work / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["last_loss"] < 0.93 * summary["first_loss"]


def test_all_linear_that_misses_the_experts_is_refused_with_what_to_write(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--model.name", "builtin:tiny-gpt-oss", "--output.run-dir", "run") == 2
    said = capsys.readouterr().err
    assert "it misses 4 fused tensors of experts" in said
    assert f"{' '.join(ATTENTION)} {' '.join(EXPERTS)}" in said
    assert not (work / "run" / "adapter").exists()


def test_dropout_with_fused_experts_is_refused_before_anything_is_loaded(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--model.name", "builtin:tiny-gpt-oss", *ATTENTION, *EXPERTS, "--lora.dropout", "0.1")
    assert train_sft("tiny.toml", *named) == 2
    assert "lora.dropout = 0.1 cannot be had with lora.target_parameters" in capsys.readouterr().err
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--train.experts", "grouped"), "train.experts = grouped: this model has no fused experts; leave it at auto"),
        (("--train.experts", "plain"), "train.experts = plain: this model has no fused experts; leave it at auto"),
        (("--train.experts", "grouped", "--train.method", "full"), "train.experts = grouped leaves the experts' own"),
        (("--train.experts", "grouped", "--train.engine", "unsloth"), "cannot have train.experts"),
    ],
)
def test_a_way_for_experts_that_cannot_be_had_is_refused_before_anything_is_loaded(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    assert train_sft("tiny.toml", "--model.name", "builtin:tiny-qwen3", *flags) == 2
    assert told in capsys.readouterr().err
    assert not (work / "runs").exists()
