"""From a recipe's sources to what is trained on: every row accounted for, by the real small tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.sft.config import SftConfig
from tanren.sft.plan import Plan, make_plan
from tanren.sft.training_data import TrainingData, make_training_data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write(path: Path, answers: Sequence[str], prompt: str = "q{}", **columns: Any) -> str:
    rows = [
        {"messages": [{"role": "user", "content": prompt.format(i)}, {"role": "assistant", "content": answer}]}
        | columns
        for i, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def plan_of(data: dict[str, Any], **sections: Any) -> Plan:
    values = {"model": {"name": "builtin:tiny-qwen3"}, "evaluation": {"enabled": False}, "data": data} | sections
    origins = {f"data.{key}": "recipe mine.toml" for key in data} | {
        f"{section}.{key}": "recipe mine.toml" for section, keys in sections.items() for key in keys
    }
    return make_plan(Loaded(SftConfig.model_validate(values), origins, None))


def make(tokenizer: PreTrainedTokenizerBase, data: dict[str, Any], **sections: Any) -> TrainingData:
    return make_training_data(tokenizer, plan_of(data, **sections))


def ids(samples: Sequence[Any]) -> list[str]:
    return [sample.row_id for sample in samples]


def test_upsampled_rows_come_several_times_and_dropped_ones_not_at_all(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    a = write(tmp_path / "a.jsonl", ["x", "y" * 99, "z"], subcategory="text_to_toml")
    b = write(tmp_path / "b.jsonl", ["x", "w" * 99], subcategory="text_to_xml")
    data = {"sources": [{"name": a}, {"name": b}], "upsample": {"toml": 2}, "max_tokens": 60, "too_long": "drop"}
    found = make(tiny_tokenizer, data)
    assert ids(found.training) == ["a.jsonl:1", "a.jsonl:1", "a.jsonl:3", "a.jsonl:3", "b.jsonl:1"]
    assert ids(found.training.source) == ["a.jsonl:1", "a.jsonl:3", "b.jsonl:1"]
    assert found.report.rows == 5
    assert found.report.dropped == {("longer than 60 tokens", "toml"): 1, ("longer than 60 tokens", "xml"): 1}
    assert "2 rows dropped: longer than 60 tokens (toml 1, xml 1)" in found.lines()
    assert found.record()["training"]["dropped"][0] == {"reason": "longer than 60 tokens", "group": "toml", "rows": 1}


def test_rows_that_are_cut_are_counted_by_format(tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", ["y" * 99, "z"], metadata={"format": "json"})
    b = write(tmp_path / "b.jsonl", ["w" * 99])
    found = make(tiny_tokenizer, {"sources": [{"name": a}, {"name": b}], "max_tokens": 60, "too_long": "cut-left"})
    assert f"2 samples were cut to data.max_tokens (json 1, {b} 1)" in found.lines()


def test_phases_and_validation_are_made_of_the_same_samples(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    a, b = write(tmp_path / "a.jsonl", ["x"] * 40, "a{}"), write(tmp_path / "b.jsonl", ["y"] * 10, "b{}")
    phases = [{"sources": [a]}, {"sources": {a: 0.5, b: 2}, "epochs": 2}]
    data = {"sources": [{"name": a}, {"name": b}], "phases": phases, "validation_share": 0.2}
    plan = plan_of(data)
    found = make_training_data(tiny_tokenizer, plan)
    held = Counter(name[0] for name in ids(found.validation))
    assert sum(held.values()) == 10
    first, second = 40 - held["a"], round((40 - held["a"]) / 2) + 2 * (10 - held["b"])
    assert found.training.sizes == plan.selection.sizes == (first, second)
    assert not set(ids(found.training)) & set(ids(found.validation))
    steps = plan.lay_out(found.training, 64)
    assert len(steps) == plan.steps(plan.selection.sizes) == -(-first // 8) + -(-2 * second // 8)
    twice = Counter(
        row for step in steps[-(-first // 8) :] for batch in step.micro_batches for row in ids(batch.samples)
    )
    assert {count for name, count in twice.items() if name[0] == "b"} == {4}
    assert {count for name, count in twice.items() if name[0] == "a"} == {2}
    again = make_training_data(tiny_tokenizer, plan_of(data))
    assert again.sha256() == found.sha256() != make(tiny_tokenizer, {"sources": data["sources"]}).sha256()


def test_answers_are_normalised_and_counted_and_what_cannot_be_is_told(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    a = write(tmp_path / "a.jsonl", ["Output:\n{}", "```json\n[]\n```", "1"])
    found = make(tiny_tokenizer, {"file": a, "normalise": "code-tags"})
    assert (
        "3 answers normalised (data.normalise): 1 after a marker, 1 from a fenced block, 1 as a whole" in found.lines()
    )
    text = tiny_tokenizer.decode(found.training[0].input_ids)
    assert "<|BEGIN_CODE|>\n{}\n<|END_CODE|><|im_end|>" in text
    bad = write(tmp_path / "bad.jsonl", ["1", "Output:\n"])
    with pytest.raises(UserError, match=r"row bad.jsonl:2: the answer has nothing to put between"):
        make(tiny_tokenizer, {"file": bad, "normalise": "code-tags"})


def test_plain_text_in_segments_is_learned_by_its_labels(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = tmp_path / "s.jsonl"
    parts = [("read", False), ("LEARN", True), ("more", True), ("é", False), ("end", True)]
    path.write_text(
        json.dumps({"segments": [{"text": text, "label": label} for text, label in parts]}), encoding="utf-8"
    )
    (sample,) = make(tiny_tokenizer, {"file": str(path)}).training
    assert tiny_tokenizer.decode(sample.input_ids) == "readLEARNmoreéend"
    learned = [token for token, mask in zip(sample.input_ids, sample.loss_mask, strict=True) if mask]
    assert tiny_tokenizer.decode(learned) == "LEARNmoreend"


@pytest.mark.parametrize(
    ("data", "sections", "told"),
    [
        (
            {"file": "A", "sources": [{"name": "A"}]},
            {},
            "data.file (recipe mine.toml) and data.sources (recipe mine.toml)",
        ),
        ({"sources": [{"name": "A", "weight": 2}]}, {}, "the weight 2 of A has no effect"),
        ({"sources": [{"name": "A"}, {"name": "A"}]}, {}, "is given 2 times"),
        (
            {"sources": [{"name": "A"}]},
            {"task": {"options": {}}},
            "task.options (recipe mine.toml) has no effect with data.sources",
        ),
        ({"validation_share": 0.1}, {}, "a task pack has held-out rows of its own"),
        ({"file": "A", "validation_share": 0.1, "validation": [{"name": "B"}]}, {}, "remove one"),
        ({"file": "A", "validation": [{"name": "B", "weight": 2}]}, {}, "the weight 2 of B has no effect"),
        (
            {"file": "A", "normalise": "code-tags", "learn_answer": "after_marker"},
            {},
            "learn_answer = after_marker has no effect",
        ),
        (
            {"file": "A", "phases": [{"sources": ["A"]}]},
            {"train": {"epochs": 2}},
            "train.epochs has no effect with data.phases",
        ),
        ({"file": "A", "phases": [{"sources": ["A"]}]}, {"train": {"max_steps": 2}}, "data.phases[0].share is not set"),
        ({"file": "A", "phases": [{"sources": ["A"], "share": 1}]}, {}, "share of train.max_steps, which is not set"),
        ({"file": "A", "phases": [{"sources": ["A"], "share": 0.5}]}, {"train": {"max_steps": 2}}, "sum up to 0.5"),
        (
            {"file": "A", "phases": [{"sources": ["A"], "share": 1, "epochs": 1}]},
            {"train": {"max_steps": 2}},
            "data.phases[0].epochs has no effect",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_told(data: dict[str, Any], sections: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(data, **sections)
    assert told in str(caught.value)
