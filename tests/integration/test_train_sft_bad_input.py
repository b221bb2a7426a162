"""What bad input gets: one message that names the place, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Command, lines_until, start

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def _write_rows(work: Path, *rows: object) -> None:
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("no-such.toml",), "no file no-such.toml"),
        (("tiny.toml", "--model.name", "builtin:tiny-qwen"), "did you mean 'builtin:tiny-qwen3'"),
        (("tiny.toml", "--data.file", "nothing.jsonl"), "no file nothing.jsonl"),
        (("tiny.toml", "--lora.target-modules", "no_such_layer"), "no_such_layer"),
        (("tiny.toml", "--resume", "latest"), "nothing to resume"),
        (("tiny.toml", "--task.options.seed", "3"), "task.options.seed"),
        (("tiny.toml", "--data.max-tokens", "4"), "row rows.jsonl:1 is too long"),
        (
            ("tiny.toml", "--data.max-tokens", "4", "--data.too-long", "cut-right"),
            "no sample is left to train on",
        ),
    ],
)
def test_a_wrong_argument_is_told_and_leaves_nothing(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert train_sft(*arguments) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
    assert not (work / "runs").exists() or not list((work / "runs").glob("*/adapter"))


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("[optim]\nlearning_rate = 1e-3\n", "unknown key 'optim.learning_rate'"),
        ("[optimm]\nlr = 1e-3\n", "did you mean 'optim'"),
        ('[optim]\nlr = "fast"\n', "optim.lr: found 'fast'"),
        ("[lora]\nrank = 0\n", "lora.rank: found 0"),
        ("[lora\nrank = 1\n", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_told_by_key(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], recipe: str, told: str
) -> None:
    (work / "wrong.toml").write_text(recipe, encoding="utf-8")
    assert train_sft("wrong.toml") == 2
    assert told in capsys.readouterr().err
    assert not (work / "runs").exists()


def test_broken_rows_are_told_by_line_before_anything_is_loaded(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_rows(work, GOOD, {"messages": []}, GOOD, {"messages": [{"role": "user", "content": "a"}]})
    assert train_sft("tiny.toml") == 2
    errors = capsys.readouterr().err
    assert "2 of 4 rows cannot be used" in errors
    assert "rows.jsonl:2" in errors
    assert "rows.jsonl:4" in errors
    assert "import" not in errors
    assert not (work / "runs").exists()


def test_a_template_without_an_assistant_turn_is_refused(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from tanren.common.models.tiny import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    tokenizer.save_pretrained(work / "mute")
    tiny_model("tiny-qwen3", torch.float32).save_pretrained(work / "mute")
    assert train_sft("tiny.toml", "--model.name", "./mute") == 2
    assert "renders no assistant turn" in capsys.readouterr().err
    assert not (work / "runs").exists()


def test_an_attention_kernel_that_cannot_run_is_refused_before_there_is_a_run(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTN_IMPL", "flash_attention_2")
    assert train_sft("tiny.toml", "--model.device", "cpu") == 2
    assert "attention 'flash_attention_2' was named and cannot run here" in capsys.readouterr().err
    assert not (work / "runs").exists()


def test_an_existing_run_directory_is_never_overwritten(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "notes.txt").write_text("keep me", encoding="utf-8")
    assert train_sft("tiny.toml", "--output.run-dir", "mine") == 2
    assert "never overwritten" in capsys.readouterr().err
    assert [path.name for path in (work / "mine").iterdir()] == ["notes.txt"]


def test_dropped_rows_are_counted_and_listed(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 500}, {"role": "assistant", "content": "b"}]}
    _write_rows(work, GOOD, long, GOOD)
    assert train_sft("tiny.toml", "--data.max-tokens", 100, "--data.too-long", "drop") == 0
    errors = capsys.readouterr().err
    assert "1 rows dropped: longer than 100 tokens" in errors
    assert "row rows.jsonl:2" in errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 72 MiB, unmounted by the kernel's namespace or the test's end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    return disk


def test_a_disk_that_fills_up_ends_the_run_with_one_message_and_whole_files(work: Path, small_disk: Path) -> None:
    try:
        process = start(
            "train-sft", "tiny.toml", "--output.run-dir", small_disk / "run", "--train.max-steps", 4000,
            "--checkpoint.every-steps", 40, "--checkpoint.keep", 50, cwd=work,
        )  # fmt: skip
        list(lines_until(process, "step 60/4000"))
        free = shutil.disk_usage(small_disk).free
        with (small_disk / "other-data").open("wb") as file:
            file.write(b"\0" * (free - 300 * 1024))
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 3, errors
        assert "the disk is full" in errors
        assert "Traceback" not in errors
        checkpoints = sorted((small_disk / "run" / "checkpoints").iterdir())
        assert checkpoints
        assert all((path / "trainer_state.json").stat().st_size for path in checkpoints)
    finally:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)


def test_a_diverging_run_stops_and_says_what_to_do(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--optim.lr", "1e30", "--output.run-dir", "wild") == 1
    assert "training diverged; lower optim.lr" in capsys.readouterr().err
    assert json.loads((work / "wild" / "summary.json").read_text(encoding="utf-8"))["status"] == "failed"
    assert not (work / "wild" / "adapter").exists()
