"""Which chat template a tokenizer renders with, and what is said of a name that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from tanren.common.chat import render_prompt, template_hash
from tanren.common.errors import UserError
from tanren.common.models.load import load_tokenizer
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.task_contract import Message

SHOUTED = "{% for m in messages %}<|im_start|>{{ m.role|upper }}: {{ m.content }}<|im_end|>{% endfor %}"
PROMPT = [Message("user", "hello")]


@pytest.fixture
def several(tmp_path: Path) -> ModelSource:
    """A saved model whose tokenizer carries two templates."""
    folder = tmp_path / "several"
    tokenizer = load_tokenizer(resolve_source("builtin:tiny-qwen3"))
    own = tokenizer.chat_template
    tokenizer.chat_template = {"default": own, "shouted": SHOUTED}
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    return resolve_source(str(folder))


def test_without_a_name_the_models_own_template_is_taken(several: ModelSource) -> None:
    own: PreTrainedTokenizerBase = load_tokenizer(resolve_source("builtin:tiny-qwen3"))
    assert template_hash(load_tokenizer(several)) == template_hash(own)
    assert render_prompt(load_tokenizer(several), PROMPT) == render_prompt(own, PROMPT)


def test_a_template_is_named_or_read_from_a_file(several: ModelSource, tmp_path: Path) -> None:
    path = tmp_path / "shouted.jinja"
    path.write_text(SHOUTED, encoding="utf-8")
    named, read = load_tokenizer(several, "shouted"), load_tokenizer(several, str(path))
    assert render_prompt(named, PROMPT) == render_prompt(read, PROMPT) == "<|im_start|>USER: hello<|im_end|>"
    assert template_hash(named) == template_hash(read) != template_hash(load_tokenizer(several))


def test_a_wrong_name_is_told_with_those_that_there_are(several: ModelSource) -> None:
    with pytest.raises(UserError, match=r"'qwen-2.5'.*carries no template of that name \(it has: default, shouted\)"):
        load_tokenizer(several, "qwen-2.5")
    with pytest.raises(UserError, match=r"'chatml'.*\(it has: default\).*leave it out for the model's own"):
        load_tokenizer(resolve_source("builtin:tiny-qwen3"), "chatml")
