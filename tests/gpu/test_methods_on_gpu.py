"""Quantised layers, full training and the engine unsloth on a CUDA device, each as a run of the real command."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name = "tiny"
[model]
name = "builtin:tiny-qwen3"
[data]
file = "rows.jsonl"
[train]
max_steps = 60
[optim]
lr = 5e-3
[checkpoint]
every_steps = 30
[evaluation]
enabled = false
[tracking]
mlflow = false
"""
Run = Callable[..., tuple[dict[str, Any], str]]


def _needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that trains as a process of its own (unsloth must come first in one); it gives summary and output."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"add {n} and 1"},
                {"role": "assistant", "content": f"it is {n + 1}"},
            ]
        }
        for n in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(RECIPE, encoding="utf-8")

    def train(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from tanren.sft.cli import main; main()",
                "tiny.toml",
                *arguments,
                "--output.run-dir",
                name,
            ],
            cwd=tmp_path,
            env={**os.environ, "PIXI_PROJECT_ROOT": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8")), done.stderr

    return train


@pytest.mark.parametrize("quantisation", ["nf4", "int8", "fp8"])
def test_adapters_on_quantised_layers_learn_as_those_on_16_bits(run: Run, quantisation: str) -> None:
    if quantisation != "fp8":
        _needs("bitsandbytes")
    elif torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no 8-bit matrix units")
    plain, _ = run("plain")
    found, said = run("quantised", "--model.quantisation", quantisation)
    assert f"layers: {'the library' if quantisation == 'int8' else 'fused (proven'}" in said
    assert f"{quantisation}: 14 linear layers in" in said
    assert found["last_loss"] < 0.85 * found["first_loss"]
    assert found["last_loss"] == pytest.approx(plain["last_loss"], rel=0.1)
    memory = found["training_memory"]
    assert memory["predicted_gib"] == pytest.approx(memory["measured_gib"], rel=0.3, abs=0.1)


def test_full_training_in_bfloat16_learns_and_its_memory_is_as_planned(run: Run, tmp_path: Path) -> None:
    found, said = run("full", "--train.method", "full", "--optim.lr", "1e-3", "--model.dtype", "bfloat16")
    assert "bfloat16 computes, and float32 copies take the updates" in said
    assert found["last_loss"] < 0.85 * found["first_loss"]
    assert (tmp_path / "full" / "model" / "model.safetensors").is_file()
    memory = found["training_memory"]
    assert memory["predicted_gib"] == pytest.approx(memory["measured_gib"], rel=0.3, abs=0.1)


@pytest.mark.parametrize("more", [(), ("--model.quantisation", "nf4"), ("--train.gradient-checkpointing", "full")])
def test_unsloth_learns_what_the_native_engine_learns(run: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
    _needs("unsloth")
    native, _ = run("native", *more)
    found, said = run("unsloth", *more, "--train.engine", "unsloth")
    assert "attention: unsloth" in said
    assert "should be imported before" not in said  # its warning where it did not come first
    # The first step sees the same samples and an adapter that adds nothing yet.
    assert found["first_loss"] == pytest.approx(native["first_loss"], rel=2e-2)
    assert found["last_loss"] == pytest.approx(native["last_loss"], rel=0.1)
    assert found["tokens"] == native["tokens"]
    for name in ("native", "unsloth"):
        assert (tmp_path / name / "adapter" / "adapter_model.safetensors").is_file()
    one, two = (
        json.loads((tmp_path / name / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        for name in ("native", "unsloth")
    )
    assert (one["r"], one["lora_alpha"], one["peft_type"]) == (two["r"], two["lora_alpha"], two["peft_type"])
