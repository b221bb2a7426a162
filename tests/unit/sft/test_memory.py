"""A run's memory: what is left open is chosen before the weights are loaded, and a run that cannot fit is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.chat import Sample
from tanren.common.config import Loaded, dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode, MachineError, UserError
from tanren.common.models.device import DevicePlan
from tanren.common.models.source import resolve_source
from tanren.common.plan import GIB, Target, find_target, settle
from tanren.common.run import RunDirectory
from tanren.sft.config import SftConfig
from tanren.sft.memory import settle_memory, take_recorded
from tanren.sft.plan import Plan
from tanren.sft.planner import SftJob
from tanren.sft.rows import Selection

CPU = DevicePlan("cpu", "float32", 1, "a test")
CUDA = DevicePlan("cuda", "bfloat16", 1, "a test")
SAMPLES = [Sample(str(index), [1] * 200, [False] * 100 + [True] * 100, "") for index in range(16)]


def _plan(**train: Any) -> Plan:
    config = SftConfig.model_validate({"model": {"name": "builtin:tiny-qwen3"}, "train": train})
    origins = {"train.micro_batch_tokens": "recipe r.toml"}
    return Plan(Loaded(config, origins, None), resolve_source("builtin:tiny-qwen3"), None, Selection(), [])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts an H100 with so many free bytes here."""

    def put(free: int) -> Target:
        target = replace(find_target("H100", None, "auto"), free=free, here=True)
        monkeypatch.setattr(settle, "target_here", lambda _: target)
        return target

    return put


def test_what_is_left_open_is_chosen_and_its_origin_is_the_plan() -> None:
    console = Console(stream=io.StringIO())
    settled = settle_memory(_plan(micro_batch_tokens="auto"), SAMPLES, CPU, console)
    assert settled.plan.config.train.micro_batch_tokens == 8 * 200  # a whole step
    assert settled.plan.loaded.origins["train.micro_batch_tokens"] == "plan"
    assert "train.gradient_checkpointing" not in settled.plan.loaded.origins
    assert "plan: train.micro_batch_tokens = 1600" in console.stream.getvalue()  # type: ignore[attr-defined]


def test_on_a_cpu_with_nothing_open_nothing_is_planned() -> None:
    settled = settle_memory(_plan(), SAMPLES, CPU, Console(stream=io.StringIO()))
    assert settled.prediction is None
    assert settled.record() == {}


def test_a_run_that_cannot_fit_is_refused_with_what_would_help(gpu: Any) -> None:
    gpu(GIB // 2)
    with pytest.raises(MachineError) as caught:
        settle_memory(_plan(), SAMPLES, CUDA, Console(stream=io.StringIO()))
    assert caught.value.exit_code is ExitCode.MACHINE
    lines = str(caught.value).splitlines()
    assert "does not fit into the memory of H100: does not fit: 0.7 of 0.5 GiB" in lines[0]
    assert len(lines) == 4


def test_a_run_that_fits_records_what_was_predicted_beside_what_was_measured(gpu: Any) -> None:
    gpu(10 * GIB)
    settled = settle_memory(_plan(), SAMPLES, CUDA, Console(stream=io.StringIO()))
    assert settled.prediction is not None
    record = settled.record(2 * settled.prediction.allocated)
    assert record["predicted_to_measured"] == 0.5
    assert record["free_gib"] == 10
    assert sum(settled.record()["components_gib"].values()) == pytest.approx(record["predicted_gib"], abs=0.01)


def test_a_model_that_cannot_be_traced_is_said_and_trained_all_the_same(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(10 * GIB)
    monkeypatch.setattr(SftJob, "loss", lambda *_: lambda model, device: torch.ones((), device=device).item())
    console = Console(stream=io.StringIO())
    settled = settle_memory(_plan(), SAMPLES, CUDA, console)
    assert settled.prediction is None
    assert "this model cannot be planned: its training step fails on tensors without data" in console.stream.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"give train\.micro_batch_tokens a value"):
        settle_memory(_plan(micro_batch_tokens="auto"), SAMPLES, CUDA, console)


def test_a_resumed_run_takes_what_its_own_plan_chose(tmp_path: Path) -> None:
    first = _plan(micro_batch_tokens=777)
    run = RunDirectory(tmp_path)
    run.config.write_text(dump_toml(first.loaded.values(), {"train.micro_batch_tokens": "plan"}), encoding="utf-8")
    resumed = take_recorded(_plan(micro_batch_tokens="auto"), run)
    assert resumed.loaded.values() == first.loaded.values()
