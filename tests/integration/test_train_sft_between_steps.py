"""What a run does between its steps: it shows in the files, and training does not notice it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tanren.common.run import read_events

from .conftest import Command, steps_of

PACK = """
name = "between"

[model]
name = "builtin:tiny-qwen3"

[task.options]
kinds = ["conversion"]
size = "tiny"
strings = "plain"
train_rows = 24
heldout_rows = 6

[train]
max_steps = 6
rows_per_step = 2
neftune_alpha = 5.0

[lora]
dropout = 0.1

[optim]
lr = 0.01
weight_decay = 0.1
min_lr_ratio = 0.05

[checkpoint]
every_steps = 0

[evaluation]
max_new_tokens = 8

[tracking]
mlflow = false
"""


def _adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def pack(work: Path) -> Path:
    (work / "between.toml").write_text(PACK, encoding="utf-8")
    return work


def test_validation_and_answers_between_steps_are_recorded_and_change_no_bit_of_training(
    pack: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = ["--validation.every-steps", 2, "--evaluation.every-steps", 3, "--evaluation.step-rows", 2]
    assert train_sft("between.toml", "--output.run-dir", "watched", *watched) == 0
    told = capsys.readouterr().err
    assert train_sft("between.toml", "--output.run-dir", "plain") == 0
    assert steps_of(pack / "watched") == steps_of(pack / "plain")
    assert _adapter(pack / "watched") == _adapter(pack / "plain")

    events = list(read_events(pack / "watched" / "metrics.jsonl"))
    validations = [event for event in events if event["kind"] == "validation"]
    assert [event["step"] for event in validations] == [0, 2, 4, 6]
    with (pack / "watched" / "validation.csv").open(encoding="utf-8") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [event["loss"] for event in validations]
    (answered,) = [event for event in events if event["kind"] == "evaluation"]
    assert (answered["step"], answered["n"]) == (3, 2)
    assert 0 <= answered["correct"] <= answered["valid"] <= 1
    assert (pack / "watched" / "evaluation" / "steps" / "step-3" / "predictions.jsonl").is_file()
    assert "evaluation after step 3: of 2 answers 0 valid, 0 correct" in told
    page = (pack / "watched" / "report.html").read_text(encoding="utf-8")
    summary = json.loads((pack / "watched" / "summary.json").read_text(encoding="utf-8"))
    assert summary["validation"]["best_loss"] == min(event["loss"] for event in validations[1:])
    assert summary["validation"]["stopped_by"] == "no step was left"
    assert f"{validations[0]['loss']:.4f} → {summary['validation']['best_loss']:.4f}" in page
    assert page.count("<td>validate ") == 1  # once for all four of them
    assert '<td>validate <span class="dim">4 times</span>' in page


def test_the_best_adapter_is_saved_when_asked(pack: Path, train_sft: Command) -> None:
    # At this rate the loss on what is held out rises after some steps.
    flags = [
        "--validation.every-steps",
        1,
        "--validation.patience",
        2,
        "--validation.restore-best",
        "--checkpoint.keep-best",
    ]
    more = ["--optim.lr", 0.3, "--train.max-steps", 12, "--evaluation.no-enabled"]
    assert train_sft("between.toml", "--output.run-dir", "best", *flags, *more) == 0
    validation = json.loads((pack / "best" / "summary.json").read_text(encoding="utf-8"))["validation"]
    best = validation["best_step"]
    assert validation["stopped_by"] == "validation.patience"
    assert validation["weights_of_step"] == best == validation["last_step"] - 2
    checkpoint = pack / "best" / "checkpoints" / f"step-{best}"
    assert _adapter(pack / "best") == (checkpoint / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--validation.patience", 2],
            "validation.patience (flag --validation.patience) has no effect without validation.every_steps",
        ),
        (
            ["--checkpoint.keep-best"],
            "checkpoint.keep_best (flag --checkpoint.keep_best) has no effect without validation.every_steps",
        ),
        (["--validation.every-steps", 1, "--validation.restore-best"], "has no effect without checkpoint.keep_best"),
        (["--evaluation.every-steps", 1, "--evaluation.no-enabled"], "has no effect without evaluation.enabled"),
        (
            ["--optim.schedule", "constant"],
            "optim.min_lr_ratio (recipe between.toml) has no effect with optim.schedule = constant",
        ),
        (["--optim.name", "adamw_8bit"], "optim.name = adamw_8bit needs a CUDA device"),
    ],
)
def test_a_setting_without_effect_is_refused(
    pack: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], flags: list[object], told: str
) -> None:
    assert train_sft("between.toml", *flags) == 2
    assert told in capsys.readouterr().err
    assert not (pack / "runs").exists()


def test_rows_that_the_data_keeps_for_it_are_validated_on(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("--data.validation-share", 0.2)
    assert train_sft("tiny.toml", "--output.run-dir", "kept", *kept, "--validation.every-steps", 3) == 0
    events = [event for event in read_events(work / "kept" / "metrics.jsonl") if event["kind"] == "validation"]
    assert [(event["step"], event["rows"]) for event in events] == [(0, 6), (3, 6), (6, 6)]
    capsys.readouterr()
    assert train_sft("tiny.toml", *kept, "--dry-run") == 0
    told = (
        "data.validation_share: rows are kept out of training, and no loss is taken on them; set validation.every_steps"
    )
    assert told in capsys.readouterr().out
    assert train_sft("tiny.toml", "--validation.every-steps", 3) == 2
    assert "validation.every_steps needs rows that are not trained on" in capsys.readouterr().err
