"""Rows and predictions of a small task: write a word in capitals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tanren.common.chain import Link
from tanren.common.task_contract import Message, Row
from tanren.evaluate.predictions import Prediction

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
