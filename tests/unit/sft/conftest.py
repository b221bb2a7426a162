"""Samples of tokens that need no tokenizer, and a trainer on a tiny model."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tanren.common.chat import Sample
from tanren.common.console import Console
from tanren.common.run import MetricsWriter, RunDirectory

if TYPE_CHECKING:
    from tanren.sft.packing import Steps
    from tanren.sft.trainer import SftTrainer

MakeSample = Callable[..., Sample]


@pytest.fixture(scope="session")
def make() -> MakeSample:
    """Return a function that makes a sample from token ids, of which the first `prompt` are not learned."""

    def sample(ids: Sequence[int], prompt: int = 1, row_id: str = "r") -> Sample:
        mask = [index >= prompt for index in range(len(ids))]
        return Sample(row_id, list(ids), mask, "")

    return sample


@pytest.fixture(params=["at once", "late"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read the figures of a step at once, as on the CPU, or while the next one runs, as on a GPU."""
    from tanren.sft.trainer import SftTrainer

    when: str = request.param
    if when == "late":
        monkeypatch.setattr(SftTrainer, "_reads_late", lambda _, optimizer: optimizer.defaults["fused"])
    return when


@pytest.fixture
def trainer_in() -> Callable[..., AbstractContextManager[SftTrainer]]:
    """Return a function that makes a trainer of a tiny model in a folder; its settings are sections of a recipe.

    `validated` are samples to validate on, `said` takes what the console prints.
    """
    import torch

    from tanren.common.attention.packed import registered_name
    from tanren.common.interruption import Interruption
    from tanren.common.models.tiny import tiny_model, tiny_tokenizer
    from tanren.common.tracking import NoTracker
    from tanren.sft.config import SftConfig
    from tanren.sft.trainer import SftTrainer
    from tanren.sft.validation import Validation

    @contextmanager
    def trainer(
        folder: Path,
        steps: Steps,
        *,
        until: int | None = None,
        validated: Sequence[Sample] = (),
        said: list[str] | None = None,
        **settings: Any,
    ) -> Iterator[SftTrainer]:
        model = tiny_model("tiny-qwen3", torch.float32)
        model.set_attn_implementation(registered_name("sdpa"))
        stream = io.StringIO()
        console = Console(stream=stream)
        run = RunDirectory(folder)
        metrics = MetricsWriter(run.metrics)
        console.attach(metrics)
        defaults = {"optim": {"lr": 0.01, "warmup_ratio": 0, "schedule": "constant"}}
        config = SftConfig.model_validate(defaults | settings)
        yield SftTrainer(
            model=model,
            tokenizer=tiny_tokenizer(),
            steps=steps,
            config=config,
            run=run,
            console=console,
            tracker=NoTracker(),
            interruption=Interruption(),
            device="cpu",
            validation=Validation(validated, config.validation, budget=64, steps=len(steps)) if validated else None,
            until=until,
        )
        metrics.close()
        if said is not None:
            said.append(stream.getvalue())

    return trainer
