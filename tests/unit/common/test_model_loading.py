"""Models and tokenizers from a folder: the same weights, and what a broken folder is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tanren.common.config import ModelConfig
from tanren.common.errors import UserError
from tanren.common.models.device import DevicePlan, plan_device
from tanren.common.models.load import load_model, load_tokenizer
from tanren.common.models.source import resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU = DevicePlan("cpu", "float32", 1, "test")


def test_a_saved_model_is_loaded_from_its_folder_in_the_planned_precision(
    tmp_path: Path, tiny_qwen3: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    tiny_qwen3.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    source = resolve_source(str(tmp_path))
    loaded = load_model(source, CPU)
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in tiny_qwen3.state_dict().items())
    assert loaded.provenance["kind"] == "folder"
    half = load_model(source, DevicePlan("cpu", "bfloat16", 1, "test"))
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    tokenizer = load_tokenizer(source)
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_a_folder_that_holds_no_loadable_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    source = resolve_source(str(tmp_path))
    for what, load in (("model", lambda: load_model(source, CPU)), ("tokenizer", lambda: load_tokenizer(source))):
        with pytest.raises(UserError) as caught:
            load()
        assert f"the {what} of {tmp_path} cannot be loaded from {tmp_path}" in str(caught.value)


def test_a_device_that_is_not_there_is_told_and_a_precision_that_was_named_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"model\.device is 'cuda', but torch finds no usable CUDA device"):
        plan_device(ModelConfig(device="cuda"))
    plan = plan_device(ModelConfig(dtype="bfloat16"))
    assert (plan.device, plan.dtype, plan.torch_dtype) == ("cpu", "bfloat16", torch.bfloat16)
    assert plan_device(ModelConfig()).dtype in ("float32", "bfloat16")
