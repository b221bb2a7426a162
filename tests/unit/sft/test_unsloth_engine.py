"""What can be shown of the engine unsloth without a GPU: what it is asked for, what is refused, and that it would come first."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample
from tanren.common.config import Loaded
from tanren.common.errors import MachineError, UserError
from tanren.common.models.tiny import tiny_model
from tanren.sft.config import SftConfig
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch
from tanren.sft.plan import make_plan
from tanren.sft.unsloth_engine import prove_packing, unsloth_loss

RECIPE = (
    'name = "tiny"\n[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "rows.jsonl"\n[evaluation]\nenabled = false\n'
)
ROW = '{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}\n'


class _AsUnsloth(torch.nn.Module):
    """A model that is called as unsloth's are: labels are shifted within, samples end where the lengths say."""

    def __init__(self, *, leaks: bool = False) -> None:
        super().__init__()
        self.inner: Any = tiny_model("tiny-qwen3", torch.float32)
        self.config, self.leaks = self.inner.config, leaks

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        labels: torch.Tensor,
        packed_seq_lengths: torch.Tensor,
        num_items_in_batch: torch.Tensor,
        use_cache: bool,
    ) -> Any:
        lengths = [input_ids.shape[1]] if self.leaks else packed_seq_lengths.tolist()
        total = torch.zeros(())
        for ids, positions, wanted in zip(
            *(tensor[0].split(lengths) for tensor in (input_ids, position_ids, labels)), strict=True
        ):
            logits = self.inner(input_ids=ids[None], position_ids=positions[None]).logits[0, :-1]
            total = total + cross_entropy(logits, wanted[1:], ignore_index=-100, reduction="sum")
        return SimpleNamespace(loss=total / num_items_in_batch)


def test_the_loss_that_unsloth_is_asked_for_is_the_trainers_own() -> None:
    generator = torch.Generator().manual_seed(2)
    samples = [
        Sample(str(length), torch.randint(3, 259, (length,), generator=generator).tolist(), mask, "")
        for length, mask in ((9, [True] * 9), (5, [False] * 3 + [True] * 2), (7, [False, True] * 3 + [False]))
    ]
    native = tiny_model("tiny-qwen3", torch.float32)
    native.set_attn_implementation(registered_name("sdpa"))
    expected = packed_loss(native, MicroBatch(tuple(samples)), "cpu")
    asked = unsloth_loss(_AsUnsloth(), [one.input_ids for one in samples], [one.loss_mask for one in samples], "cpu")
    torch.testing.assert_close(asked, expected, rtol=1e-5, atol=0)


def test_a_model_whose_packed_samples_see_one_another_is_refused() -> None:
    assert prove_packing(_AsUnsloth(), "cpu").kernel == "unsloth"
    with pytest.raises(MachineError, match="packed samples see one another in this model"):
        prove_packing(_AsUnsloth(leaks=True), "cpu")


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"model": {"quantisation": "int8"}}, "cannot have model.quantisation = int8"),
        ({"model": {"quantisation": "fp8"}}, "cannot have model.quantisation = fp8"),
        ({"lora": {"dora": True}}, "cannot have lora.dora"),
        ({"lora": {"target_parameters": ["mlp.experts.down_proj"]}}, "cannot have lora.target_parameters"),
        ({"train": {"gradient_checkpointing": "selective"}}, "cannot have train.gradient_checkpointing = selective"),
        ({"train": {"gradient_checkpointing": "auto"}}, "cannot have train.gradient_checkpointing = auto"),
        ({"train": {"attention": "sdpa"}}, "cannot have train.attention"),
        ({"train": {"layers": "fused"}}, "cannot have train.layers = fused"),
        ({"model": {"parent": "runs/a1"}}, "cannot have model.parent"),
    ],
)
def test_what_unsloth_has_no_place_for_is_refused_in_the_plan(sections: dict[str, dict[str, Any]], told: str) -> None:
    sections = {**sections, "train": {**sections.get("train", {}), "engine": "unsloth"}}
    with pytest.raises(UserError, match=told):
        make_plan(Loaded(SftConfig.model_validate(sections), {}, None))


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is not None, reason="unsloth is installed")
def test_where_unsloth_is_missing_it_is_told_before_transformers_is_imported(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(ROW, encoding="utf-8")
    done = command("tanren.sft.cli", "tiny.toml", "--train.engine", "unsloth", folder=tmp_path)
    assert done.code == 2
    assert "train.engine = unsloth: unsloth is not installed here; the environments b300" in done.err
    assert done.heavy == ""
    assert not (tmp_path / "runs").exists()
