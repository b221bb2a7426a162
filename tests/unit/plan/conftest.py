"""Jobs of tiny models, and devices with as much memory as a test wants."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tanren.common.chat import Sample
from tanren.common.config import Loaded
from tanren.common.models.source import resolve_source
from tanren.common.plan import GIB, Target, find_target
from tanren.sft.config import SftConfig
from tanren.sft.plan import Plan
from tanren.sft.planner import SftJob, job_for
from tanren.sft.rows import Selection

MakeJob = Callable[..., SftJob]
MakeTarget = Callable[..., Target]


@pytest.fixture
def h100() -> MakeTarget:
    """Return a function that gives an H100 with so much memory (default: its own)."""

    def make(gib: float | None = None) -> Target:
        target = find_target("H100", None, "auto")
        if gib is None:
            return target
        return replace(target, total=int(gib * GIB), free=int(gib * GIB), context=0, slack=0.0)

    return make


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a configuration without weights: few layers, but so wide that a step takes gigabytes."""
    folder = tmp_path_factory.mktemp("wide")
    values = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 4}
    values |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 8000}
    values |= {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return str(folder)


@pytest.fixture
def job(h100: MakeTarget) -> MakeJob:
    """Return a function that gives the job of a tiny model; `lengths` of samples whose second half is learned."""

    def make(
        model: str = "builtin:tiny-qwen3",
        lengths: list[int] | None = None,
        target: Target | None = None,
        quantisation: str = "none",
        **sections: dict[str, Any],
    ) -> SftJob:
        generator = random.Random(5)
        lengths = lengths or [generator.randint(100, 400) for _ in range(24)]
        samples = [
            Sample(str(index), [1] * length, [position >= length // 2 for position in range(length)], "")
            for index, length in enumerate(lengths)
        ]
        config = SftConfig.model_validate({"model": {"name": model, "quantisation": quantisation}} | sections)
        plan = Plan(Loaded(config, {}, None), resolve_source(model), None, Selection(), [])
        return job_for(plan, samples, target or h100())

    return make
