"""vLLM on the trainer's GPU: it generates with what is trained, sleeps and wakes, and a run with it learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tanren.evaluate.predictions import read_predictions
from tests.integration.grpo_runs import lines_of, numbers_of, write_work

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def _write_model(folder: Path, model_type: str) -> None:
    """Save a random model with heads of 64, the least that vLLM's kernels take, and a byte-level tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tanren.common.models.tiny import tiny_config, tiny_tokenizer

    values = tiny_config(f"tiny-{model_type.replace('_', '-')}").to_dict()
    for name in ("transformers_version", "architectures", "dtype", "model_type"):
        values.pop(name, None)
    wide = {"hidden_size": 128, "head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model(model_type, **(values | wide))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run train-grpo on the recipe letters.toml in a process of its own: there is one vLLM in a process."""
    command = [sys.executable, "-c", "from tanren.grpo.cli import main; main()", "letters.toml", *flags]
    environment = os.environ | {"PIXI_PROJECT_ROOT": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_run_with_vllm_learns(tmp_path: Path, level: int) -> None:
    write_work(tmp_path)
    _write_model(tmp_path / "model", "qwen3")
    flags = ["--model.name", "model", "--model.dtype", "bfloat16", "--rollout.engine", "vllm", "--vllm.enforce-eager"]
    flags += ["--evaluation.enabled", "--evaluation.max-new-tokens", "8"]  # longer than what is trained
    done = _run(tmp_path, *flags, "--vllm.sleep-level", str(level), "--output.run-dir", "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "vLLM follows the trainer" in done.stderr
    steps = numbers_of(tmp_path / "run")
    rewards = [step["reward"] for step in steps]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    base, trained = (
        read_predictions(tmp_path / "run/evaluation" / name / "predictions.jsonl") for name in ("base", "trained")
    )
    assert base != trained
    assert all(one.completion_tokens == 8 or one.finish_reason == "stop" for one in [*base, *trained])
    # The head and the embeddings are one tensor, and the adapter changes the head alone: both reach vLLM.
    assert max(step["log_prob_gap_kl"] for step in steps if step["log_prob_gap_kl"] is not None) < 2e-3


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_vllm_follows_the_experts_too(tmp_path: Path, model_type: str) -> None:
    write_work(tmp_path)
    _write_model(tmp_path / "model", model_type)
    flags = ["--model.name", "model", "--model.dtype", "bfloat16", "--rollout.engine", "vllm", "--vllm.enforce-eager"]
    flags += ["--lora.target-modules", "q_proj", "v_proj", "--train.steps", "2", "--output.run-dir", "run"]
    flags += ["--lora.target-parameters", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    done = _run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "vLLM follows the trainer" in done.stderr


def test_vllm_writes_what_the_form_allows_and_tells_the_log_probs_of_all_words(tmp_path: Path) -> None:
    write_work(tmp_path)
    _write_model(tmp_path / "model", "qwen3")
    choices = ["abcd", "ABCD", "12", "E"]
    flags = ["--model.name", "model", "--model.dtype", "bfloat16", "--rollout.engine", "vllm", "--vllm.enforce-eager"]
    flags += ["--rollout.structured.choices", *choices, "--output.run-dir", "run"]
    done = _run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {line["completion"] for line in lines_of(tmp_path / "run")} == set(choices)
    steps = numbers_of(tmp_path / "run")
    rewards = [step["reward"] for step in steps]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    assert max(step["log_prob_gap_kl"] for step in steps if step["log_prob_gap_kl"] is not None) < 2e-3
