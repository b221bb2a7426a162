"""All weights are trained: what is saved is a model, small updates are not lost, and a resumed run is the same bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tanren.common.master_weights import MasterWeights

from .conftest import Command, steps_of

FULL = """
name = "full"

[model]
name = "builtin:tiny-qwen3"
threads = 1

[data]
file = "rows.jsonl"

[train]
method = "full"
max_steps = 4
rows_per_step = 4

[optim]
lr = 1e-3

[checkpoint]
every_steps = 2

[evaluation]
enabled = false

[tracking]
mlflow = false
"""


@pytest.fixture
def full(work: Path) -> Path:
    """A working folder with a recipe that trains all weights."""
    (work / "full.toml").write_text(FULL, encoding="utf-8")
    return work


def test_the_whole_model_is_saved_and_loads_as_any_model(
    full: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    from tanren.common.models.load import load_tokenizer
    from tanren.common.models.source import resolve_source

    assert train_sft("full.toml", "--model.dtype", "bfloat16", "--output.run-dir", "run") == 0
    said = capsys.readouterr().err
    # 259 x 64 embeddings; 2 layers of q, k, v, o: 64 x (64 + 32 + 32 + 64), 3 x 64 x 128, norms 2 x 64 + 2 x 16; norm 64
    parameters = 259 * 64 + 2 * (64 * 192 + 3 * 64 * 128 + 160) + 64
    assert f"full: all {parameters:,} parameters are trained; bfloat16 computes, and float32 copies" in said
    assert "step 1: all 24 trained tensors received a gradient" in said
    assert "model: run/model" in said
    assert not (full / "run" / "adapter").exists()
    weights = load_file(full / "run" / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    provenance = json.loads((full / "run" / "model" / "provenance.json").read_text(encoding="utf-8"))
    assert (provenance["method"], provenance["base_model"]["name"]) == ("full", "builtin:tiny-qwen3")
    assert provenance["weights_sha256"].keys() == {"model.safetensors"}
    load_tokenizer(resolve_source(str(full / "run" / "model")))
    again = ("--model.name", full / "run" / "model", "--train.max-steps", "1", "--output.run-dir", "again")
    assert train_sft("full.toml", *again) == 0
    first, second = steps_of(full / "run"), steps_of(full / "again")
    assert second[0]["loss"] < first[0]["loss"]


@pytest.mark.parametrize(("model", "dtype"), [("tiny-qwen3", "bfloat16"), ("tiny-qwen3-moe", "float32")])
def test_a_resumed_run_of_all_weights_is_the_same_bit_for_bit(
    full: Path, train_sft: Command, model: str, dtype: str
) -> None:
    named = ("full.toml", "--model.name", f"builtin:{model}", "--model.dtype", dtype)
    assert train_sft(*named, "--output.run-dir", "straight") == 0
    (full / "straight").rename(full / "resumed")
    straight = (full / "resumed" / "model").rename(full / "straight-model")
    expected = steps_of(full / "resumed")
    summary = full / "resumed" / "summary.json"
    summary.write_text(summary.read_text(encoding="utf-8").replace('"done"', '"interrupted"'), encoding="utf-8")
    assert train_sft(*named, "--resume", "resumed") == 0
    assert steps_of(full / "resumed") == expected
    assert (full / "resumed" / "model" / "model.safetensors").read_bytes() == (
        straight / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--lora.rank", "8"), "lora.rank (flag --lora.rank): no effect with train.method = full"),
        (("--model.quantisation", "nf4"), "train.method = full freezes none: take one"),
        (("--train.engine", "unsloth"), "train.engine = unsloth trains adapters"),
    ],
)
def test_settings_that_full_training_has_no_use_for_are_refused(
    full: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], more: tuple[str, str], told: str
) -> None:
    assert train_sft("full.toml", *more, "--dry-run") == 2
    assert told in capsys.readouterr().err


def test_a_flag_that_asks_for_full_training_outranks_the_recipes_adapter_and_says_so(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--train.method", "full", "--dry-run") == 0
    printed = capsys.readouterr()
    assert "train.method = full (flag --train.method): lora.dropout (recipe tiny.toml) have no effect" in (
        printed.err + printed.out
    )


def test_updates_that_bfloat16_would_round_away_add_up_in_the_copies() -> None:
    weights = {dtype: torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)}
    masters = MasterWeights(weights.values())
    optimizer = torch.optim.SGD(list(weights.values()), lr=2.0**-10)  # half of half a unit in the last place of 1 - x
    masters.attach(optimizer)
    lost = torch.ones(3, dtype=torch.bfloat16)
    for _ in range(64):
        for weight in weights.values():
            (weight.float() * 1.0).sum().backward()
            (weight.float() * 0.0).sum().backward()  # a second micro-batch
        optimizer.step()
        optimizer.zero_grad()
        lost -= 2.0**-10 * torch.ones(3, dtype=torch.bfloat16)
    assert lost.tolist() == [1.0] * 3
    assert {dtype: weight.tolist() for dtype, weight in weights.items()} == {
        torch.bfloat16: [1 - 64 / 1024] * 3,
        torch.float32: [1 - 64 / 1024] * 3,
    }
