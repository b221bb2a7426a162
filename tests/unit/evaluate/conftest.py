"""Rows and predictions of a small task, write a word in capitals; runs of the pack `structured` to look at; a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tanren.common.chain import Link
from tanren.common.run import RunDirectory
from tanren.common.task_contract import Message, Row
from tanren.common.task_packs import load_pack
from tanren.evaluate.listing import write_candidates
from tanren.evaluate.predictions import Prediction, write_predictions, write_tasks
from tests.browser import Browser, headless

WORDS = ("ash", "oak", "birch", "maple")


@pytest.fixture
def rows() -> list[Row]:
    return [
        Row(word, (Message("user", word),), word.upper(), "short" if len(word) < 5 else "long", word.upper())
        for word in WORDS
    ]


@pytest.fixture(scope="session")
def predict() -> Callable[..., Prediction]:
    """Return a function that makes a prediction of an id and a completion."""

    def prediction(identity: str, completion: str = "", *, cut: bool = False) -> Prediction:
        return Prediction(identity, completion, "0" * 16, "length" if cut else "stop", 3, 2)

    return prediction


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a real browser without a window, one for all tests."""
    with headless() as found:
        yield found


# What a page must not run, fetch or stumble over, whatever it is put into.
HOSTILE = '</script><script>window.owned = 1</script><img src="http://example.invalid/x.png" onerror="window.owned = 2"><!--\u2028'


def _answer(row: Row, change: str) -> str:
    if change == "hostile":
        return HOSTILE
    if change == "value":  # parses, with another value
        return row.reference.replace("a", "e", 1)
    if change == "fenced":
        return f"Here you are:\n```{row.group}\n{row.reference}\n```\n"
    return row.reference if change == "right" else row.reference[: len(row.reference) // 2]


def write_run(
    folder: Path,
    changes: Mapping[str, Sequence[Sequence[str]]],
    *,
    rows: int = 20,
    evaluation: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Write a run of `evaluate` on `rows` items of the pack `structured`.

    `changes`: for each candidate its samples, each a cycle of what is done to the expected answers: right, value, fenced,
    hostile, cut.
    """
    options = {"heldout_rows": rows, "size": "tiny", "strings": "plain"}
    items = load_pack("structured", options).rows("heldout")
    run = RunDirectory(folder)
    for name, samples in changes.items():
        predictions = [
            Prediction(
                row.id, _answer(row, cycle[i % len(cycle)]), "0" * 16,
                "length" if cycle[i % len(cycle)] == "cut" else "stop", 3, 2, sample,
            )
            for i, row in enumerate(items)
            for sample, cycle in enumerate(samples)
        ]  # fmt: skip
        write_predictions(run.evaluation / name / "predictions.jsonl", predictions)
    write_tasks(run.evaluation / "tasks.jsonl", items)
    write_candidates(run.evaluation, [{"name": name} for name in changes])
    run.config.write_text(
        'name = "made"\n[task]\nname = "structured"\n[task.options]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items()),
        encoding="utf-8",
    )
    run.write_json(run.environment, {"model": {"name": "builtin:tiny-qwen3"}})
    run.write_json(run.summary, {"status": "done", "steps": 0, "seconds": 1.0, "evaluation": dict(evaluation or {})})
    run.metrics.write_text("", encoding="utf-8")
    return run


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Return a function that writes a run: the arguments of `write_run` without the folder."""
    return lambda *arguments, **named: write_run(tmp_path / "made", *arguments, **named)


@pytest.fixture
def made_run(tmp_path: Path) -> RunDirectory:
    """Return a run of two candidates, `base` (mostly wrong) and `trained` (mostly right), on 20 items of five formats."""
    return write_run(
        tmp_path / "made",
        {
            "base": [["hostile", "cut", "value", "right", "cut", "cut", "right"]],
            "trained": [["right", "fenced", "right", "cut"]],
        },
    )


RECIPE = """
name = "quick"
[model]
name = "builtin:tiny-qwen3"
dtype = "float32"
device = "cpu"
threads = 1
[task]
name = "{pack}"
[generation]
max_new_tokens = 6
batch_size = 3
"""


@pytest.fixture
def work(tmp_path: Path, pack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe for a tiny model and a pack of eight words."""
    (tmp_path / "quick.toml").write_text(RECIPE.format(pack=pack_folder), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evaluate() -> Callable[..., int]:
    """Run evaluate in this process; return its exit code."""
    from tanren.common.command import run_command
    from tanren.evaluate.cli import _main

    return lambda *arguments: run_command(_main, [str(argument) for argument in arguments])


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an adapter with weights as after training (random ones), and returns its run directory."""
    import torch

    from tanren.common.chain import copy_parents
    from tanren.common.chat import template_hash
    from tanren.common.config import LoraConfig
    from tanren.common.lora import attach_adapter
    from tanren.common.models.tiny import tiny_model, tiny_tokenizer
    from tanren.common.workspace import sha256_of

    def make(
        run: str,
        seed: int,
        parents: Sequence[Link] = (),
        model: str = "tiny-qwen3",
        template: str = "",
        **lora: Any,
    ) -> Path:
        wrapped = attach_adapter(tiny_model(model, torch.float32), LoraConfig(rank=4, alpha=32, **lora))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, weight in wrapped.named_parameters():
                if ".lora_" in key:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        wrapped.peft_config["default"].base_model_name_or_path = f"builtin:{model}"
        folder = tmp_path / run / "adapter"
        wrapped.save_pretrained(folder, save_embedding_layers=False)
        record = {
            "base_model": {"name": f"builtin:{model}"},
            "parents": copy_parents(parents, folder),
            "adapter_sha256": sha256_of(folder / "adapter_model.safetensors"),
            "adapter_config_sha256": sha256_of(folder / "adapter_config.json"),
            "run": run,
            "recipe": "test",
            "rank": 4,
            "trained_in": "float32",
            "chat_template_hash": template or template_hash(tiny_tokenizer()),
        }
        (folder / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
        (tmp_path / run / "summary.json").write_text('{"status": "done"}', encoding="utf-8")
        (tmp_path / run / "config.toml").write_text("", encoding="utf-8")
        return tmp_path / run

    return make
