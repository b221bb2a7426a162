"""The evaluator that trainers call, and the check of an adapter's parents."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tanren.common.chain import Link, TrainedAdapter
from tanren.common.config import GenerationConfig
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.task_packs import load_pack
from tanren.evaluate.candidate import check_provenance
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.evaluator import GenerationEvaluator
from tanren.evaluate.predictions import read_predictions, read_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def evaluator(pack_folder: Path, stream: io.StringIO) -> GenerationEvaluator:
    pack = load_pack(str(pack_folder))
    settings = GenerationConfig(max_new_tokens=3, batch_size=2)
    return GenerationEvaluator(pack, pack.rows("heldout"), settings, Console(stream=stream))


def test_candidates_leave_their_files_and_are_compared(
    evaluator: GenerationEvaluator, tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = tmp_path / "evaluation"
    for candidate in ("base", "trained"):
        evaluator.evaluate(candidate, tiny_qwen3, tiny_tokenizer, folder)
    tasks = read_tasks(folder / "tasks.jsonl")
    predictions = read_predictions(folder / "base" / "predictions.jsonl")
    assert [prediction.id for prediction in predictions] == [row.id for row in tasks]
    comparison = evaluator.compare("base", "trained")
    scores = json.loads((folder / "base" / "scores.json").read_text(encoding="utf-8"))
    assert comparison["candidates"]["base"] == scores
    assert comparison["difference"]["all"]["correct"]["value"] == 0
    assert (comparison["task"], comparison["group"], scores["cut_at_max_new_tokens"]) == ("shout", "length", 4)
    assert "length" in evaluator.table("base", "trained")


def test_predictions_of_a_resumed_run_are_used_again_only_for_the_same_prompts(
    evaluator: GenerationEvaluator,
    tiny_qwen3: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    stream: io.StringIO,
) -> None:
    evaluator.evaluate("base", tiny_qwen3, tiny_tokenizer, tmp_path)
    path = tmp_path / "base" / "predictions.jsonl"
    marked = path.read_text(encoding="utf-8").replace('"completion": "', '"completion": "kept ')
    path.write_text(marked, encoding="utf-8")
    evaluator.evaluate("base", tiny_qwen3, tiny_tokenizer, tmp_path)
    assert "4 predictions of this run are there already" in stream.getvalue()
    assert path.read_text(encoding="utf-8") == marked
    other = marked.replace('"prompt_hash": "', '"prompt_hash": "x')
    path.write_text(other, encoding="utf-8")
    evaluator.evaluate("base", tiny_qwen3, tiny_tokenizer, tmp_path)
    assert "kept" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("recorded", "base", "told"),
    [
        ({"name": "a/b"}, {"name": "a/b"}, None),
        ({"name": "a/b"}, {"name": "a/c"}, "another base model: name 'a/b'"),
        ({"name": "x", "weights_sha256": "1"}, {"name": "x", "weights_sha256": "2"}, "weights_sha256 '1'"),
        ({"name": "x", "weights_sha256": "1"}, {"name": "x", "commit": "2"}, "weights_sha256 '1'"),
        ({"name": "x", "commit": "1"}, {"name": "x", "commit": "2"}, "commit '1'"),
    ],
)
def test_an_adapter_of_another_base_model_is_refused(
    tmp_path: Path, recorded: dict[str, Any], base: dict[str, Any], told: str | None
) -> None:
    config = EvaluateConfig()
    itself = Link(tmp_path, "0", "0", "run", "recipe", 8, "float32")
    adapter = TrainedAdapter(tmp_path, recorded, "t", (), itself)
    if told is None:
        check_provenance(adapter, base, "t", config)
        with pytest.raises(UserError, match="--allow-other-template"):
            check_provenance(adapter, base, "other", config)
        check_provenance(adapter, base, "other", EvaluateConfig(allow_other_template=True))
        return
    with pytest.raises(UserError) as caught:
        check_provenance(adapter, base, "t", config)
    assert told in str(caught.value)
