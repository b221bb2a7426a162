"""What the CPU tests show, on a CUDA device: packing, training, repetition, and that the quickstart learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

Command = Callable[..., int]
ROWS = 24


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def train_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    from tanren.common.command import run_command
    from tanren.sft.cli import _main

    rows = [
        {
            "messages": [
                {"role": "user", "content": f"add {n} and 1"},
                {"role": "assistant", "content": f"it is {n + 1}"},
            ]
        }
        for n in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "rows.jsonl"\n[train]\nmax_steps = 60\n'
        "[optim]\nlr = 5e-3\n[evaluation]\nenabled = false\n[tracking]\nmlflow = false\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(Path(__file__).resolve().parents[2]))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(_main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_packed_loss_equals_the_sum_over_single_samples(dtype: str, tolerance: float) -> None:
    from tanren.common.attention.packed import registered_name
    from tanren.common.chat import make_sample
    from tanren.common.models.tiny import tiny_model, tiny_tokenizer
    from tanren.common.task_contract import Message
    from tanren.sft.loss import packed_loss
    from tanren.sft.packing import MicroBatch

    tokenizer = tiny_tokenizer()
    model: Any = tiny_model("tiny-qwen3", getattr(torch, dtype))
    model.cuda()
    texts = ["short", "a longer answer of some words", "日本語の答え"]
    samples = [make_sample(tokenizer, [Message("user", "q"), Message("assistant", text)], text, text) for text in texts]
    expected = 0.0
    for sample in samples:  # independent: the model's own attention and logits of every position
        ids = torch.tensor([sample.input_ids], device="cuda")
        logits = model(input_ids=ids).logits[0]
        log_probs = logits.detach().double().log_softmax(-1)
        for index in range(1, len(sample.input_ids)):
            if sample.loss_mask[index]:
                expected -= float(log_probs[index - 1, sample.input_ids[index]])
    model.set_attn_implementation(registered_name("sdpa"))
    assert float(packed_loss(model, MicroBatch(tuple(samples)), "cuda").detach()) == pytest.approx(
        expected, rel=tolerance
    )


def test_a_run_on_the_gpu_learns_and_records_the_device(train_sft: Command, tmp_path: Path) -> None:
    assert train_sft("tiny.toml", "--output.run-dir", "run") == 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert environment["device"]["device"] == "cuda"
    assert environment["gpu"]
    assert summary["last_loss"] < 0.85 * summary["first_loss"]


def test_two_runs_on_one_gpu_are_the_same_bit_for_bit(train_sft: Command, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert train_sft("tiny.toml", "--output.run-dir", name, "--lora.dropout", "0.1") == 0
    one, two = ((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_quickstart_learns_on_the_gpu(train_sft: Command, tmp_path: Path) -> None:
    from tanren.common.models.source import resolve_source

    if resolve_source("builtin:smollm2-135m").kind != "packaged":
        pytest.skip("the package with SmolLM2's weights is not installed")
    recipe = Path(__file__).resolve().parents[2] / "tasks" / "structured" / "recipes" / "quickstart.toml"
    assert train_sft(recipe, "--output.run-dir", tmp_path / "run", "--tracking.no-mlflow") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    difference = summary["evaluation"]["difference"]["all"]["correct"]
    print({"difference": difference, "seconds": summary["seconds_by_phase"], "tokens/s": summary["tokens_per_second"]})  # noqa: T201
    assert difference["value"] >= 0.25
    assert difference["low"] > 0


def test_resuming_is_bit_for_bit_on_the_gpu(
    train_sft: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--checkpoint.every-steps", 20, "--lora.dropout", 0.1, "--train.neftune-alpha", 5)
    assert train_sft("tiny.toml", "--output.run-dir", "run", *more) == 0
    assert train_sft("run/config.toml", "--resume", "run", "--verify") == 0
    assert "weights, optimizer, rate and random states after step 40: equal" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_adamw_learns(train_sft: Command, tmp_path: Path, name: str) -> None:
    pytest.importorskip("bitsandbytes")
    assert train_sft("tiny.toml", "--output.run-dir", "run", "--optim.name", name, "--lora.rank", 64) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["last_loss"] < 0.85 * summary["first_loss"]
