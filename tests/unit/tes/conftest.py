"""Makes `tasks.tes` importable, as the pack is a folder and not an installed package; the closed loop, and models to put into it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tanren.common.command import run_command
from tanren.evaluate.cli import _main

ROOT = Path(__file__).resolve().parents[3]
Control = Callable[..., dict[str, Any]]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the data that lies beside the checkout."""
    for place in (ROOT.parent / "shared", ROOT.parent.parent / "shared"):
        if (place / "data" / "tes-weather").is_dir():
            return place / "data"
    pytest.skip("no shared/data/tes-weather beside the checkout")


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Control:
    """Return a function that runs `evaluate control ... --json` in an empty folder and returns the object."""
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict[str, Any]:
        assert run_command(_main, ["control", *arguments, "--json"]) == 0
        told = capsys.readouterr()
        found: dict[str, Any] = json.loads(told.out)
        found["told"] = told.err
        return found

    return run


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: of so small a model threads would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scripted(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that saves a model which answers with one of these texts, each letter following from the last.

    Its layers add nothing, so what comes next depends on the last token alone, and the output head is that table.
    """

    def save(*answers: str) -> Path:
        import torch

        from tanren.common.models.tiny import tiny_model, tiny_tokenizer

        tokenizer: Any = tiny_tokenizer()
        model: Any = tiny_model("tiny-qwen3", torch.float32)
        embeddings = model.get_input_embeddings().weight
        head = torch.zeros_like(embeddings)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            for answer in answers:
                # behind the newline that ends the prompt
                ids = [*tokenizer("\n" + answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                for last, following in pairwise(ids):
                    row = embeddings[last] / embeddings[last].norm()
                    head[following] += row * (head[following] @ row < 0.5)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(20 * head)
        folder = tmp_path_factory.mktemp("model") / "saved"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def log_of(run: Path) -> list[dict[str, Any]]:
    """Return the decisions of a run."""
    return [json.loads(line) for line in (run / "control" / "decisions.jsonl").read_text().splitlines()]
