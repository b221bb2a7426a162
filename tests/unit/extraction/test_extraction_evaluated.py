"""The pack's metrics on their way: a real model's answers, `scores.json`, the table, and evaluations between steps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tanren.common.config import GenerationConfig
from tanren.common.console import Console
from tanren.common.task_packs import load_pack
from tanren.evaluate.evaluator import GenerationEvaluator
from tanren.sft.step_evaluation import StepEvaluation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def test_answers_of_a_model_are_measured_between_steps_and_at_the_end(
    tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    options = {"heldout_rows": 4, "languages": ["en"], "length": "short", "person_keys": ["name", "act"]}
    pack = load_pack("extraction", options)
    settings = GenerationConfig(max_new_tokens=3, batch_size=4)
    evaluator = GenerationEvaluator(pack, pack.rows("heldout"), settings, Console(stream=io.StringIO()))
    event = StepEvaluation(evaluator, tiny_tokenizer, tmp_path, every=1, steps=2).run(tiny_qwen3, 1)
    assert event["measures"]["json_parse_rate"] == 0
    assert event["measures"]["offender_presence_precision"] is None
    evaluator.evaluate("trained", tiny_qwen3, tiny_tokenizer, tmp_path)
    scores = json.loads((tmp_path / "trained" / "scores.json").read_text(encoding="utf-8"))
    assert scores["measures"]["schema_ok_rate"]["n"] == 4
    assert scores["mistakes"]["other"]["count"] == 4
    table = evaluator.table("step-1", "trained")
    assert "all_fields_exact_match_rate" in table
    assert "trained: mistakes: 4 other" in table
