"""A tiny model with an adapter that does something, and completions to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tanren.common.attention.packed import registered_name
from tanren.common.completions import Completion
from tanren.common.fused import choose_route
from tanren.common.models.tiny import tiny_model
from tanren.common.task_contract import Message, Row
from tanren.grpo.prompts import Prompt
from tanren.grpo.rollout import Rated

MakeModel = Callable[..., Any]
MakeRated = Callable[..., Rated]


@pytest.fixture
def adapted(one_thread: None) -> MakeModel:
    """Return a function that gives a tiny model with an adapter; the same call gives the same values."""

    def make(
        name: str = "tiny-qwen3", *, layers: str = "plain", modules: tuple[str, ...] = ("q_proj", "o_proj")
    ) -> Any:
        base = tiny_model(name, torch.float32)
        base.set_attn_implementation(registered_name("sdpa"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model: Any = get_peft_model(base, LoraConfig(r=4, target_modules=list(modules)))
            for parameter in model.parameters():  # a fresh B is 0: nobody would notice that it is left out
                if parameter.requires_grad:
                    parameter.data += torch.randn(parameter.shape) * 0.2
        choose_route(model, layers, "none", "cpu")  # type: ignore[arg-type]
        model.eval()
        return model

    return make


@pytest.fixture
def rated() -> MakeRated:
    """Return a function that makes a completion with a reward and an advantage."""

    def make(
        prompt: list[int],
        tokens: list[int],
        *,
        advantage: float | None = 1.0,
        group: int = 0,
        log_probs: list[float] | None = None,
        expected: Any = None,
    ) -> Rated:
        row = Row(f"row-{group}", (Message("user", "?"),), "", "all", expected)
        return Rated(
            prompt=Prompt(row, tuple(prompt), "hash"),
            completion=Completion(tuple(tokens), tuple(log_probs or [-1.0] * len(tokens)), "stop"),
            text="".join(map(chr, tokens)),
            judged=None,
            columns={},
            reward=None if advantage is None else 0.0,
            excluded_why=None if advantage is not None else "not scorable",
            group=group,
            advantage=advantage,
        )

    return make
