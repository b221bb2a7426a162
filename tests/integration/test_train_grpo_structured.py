"""Runs of train-grpo whose completions have a form: they learn within it, go on bit for bit, and stand on the same form."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .grpo_runs import lines_of, numbers_of, summary_of

pytest.importorskip("llguidance")
Command = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]
CHOICES = ["abcd", "ABCD", "12", "E"]


@pytest.mark.filterwarnings("ignore")
def test_a_run_learns_which_choice_is_rewarded(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = letters / "run"
    assert train_grpo("letters.toml", "--rollout.structured.choices", *CHOICES, "--output.run-dir", run) == 0
    assert (
        "rollout.structured: completions are sampled from the words that their form allows" in capsys.readouterr().err
    )
    lines, steps = lines_of(run), numbers_of(run)
    assert {line["completion"] for line in lines} == set(CHOICES)
    assert {line["reward"] for line in lines} == {0.0, 1.0}
    assert sum(step["truncated_share"] for step in steps) == 0
    # Masked words are no gap between engine and trainer: both tell the model's own log-probabilities.
    assert max(step["log_prob_gap_largest"] for step in steps) < 1e-3
    assert steps[0]["reward"] < 0.5  # one choice of four is right, and 32 were drawn
    assert summary_of(run)["last_reward"] > 0.9


@pytest.mark.filterwarnings("ignore")
def test_a_run_with_a_form_goes_on_bit_for_bit_and_with_no_other_form(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = letters / "form.json"
    form = {"type": "array", "items": {"type": "string", "pattern": "^[a-zA-Z]{0,2}$"}, "minItems": 1, "maxItems": 2}
    schema.write_text(json.dumps(form), encoding="utf-8")
    form_flags = ("letters.toml", "--rollout.structured.json-schema", schema, "--rollout.max-new-tokens", 16)
    flags = (*form_flags, "--train.steps", 5, "--checkpoint.every-steps", 2, "--checkpoint.keep", 9)
    whole, died = letters / "whole", letters / "died"
    assert train_grpo(*flags, "--output.run-dir", whole) == 0
    for line in lines_of(whole):
        if line["finish_reason"] == "stop":
            assert all(re.fullmatch("[a-zA-Z]{0,2}", one) for one in json.loads(line["completion"]))
    shutil.copytree(whole, died)
    for name in ("summary.json", "generations.csv", "metrics.csv", "report.html"):
        (died / name).unlink()
    shutil.rmtree(died / "adapter")
    shutil.rmtree(died / "checkpoints" / "step-4")
    assert train_grpo(*flags, "--resume", died) == 0
    assert "resuming after step 2 of 5" in capsys.readouterr().err
    assert numbers_of(died) == numbers_of(whole)
    assert lines_of(died) == lines_of(whole)
    weights = "adapter/adapter_model.safetensors"
    assert (died / weights).read_bytes() == (whole / weights).read_bytes()

    schema.write_text(json.dumps(form | {"maxItems": 3}), encoding="utf-8")
    (died / "summary.json").unlink()
    assert train_grpo(*flags, "--resume", died) == 2
    assert "cannot be resumed: structured was {'kind': 'json_schema'" in capsys.readouterr().err
