"""The planner's prediction against two real steps on this machine's GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_a_prediction_is_within_ten_percent_of_what_a_probe_allocates(
    checkpointing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from tanren.common.config import load_config
    from tanren.common.models.source import resolve_source
    from tanren.common.plan import find_target, predict
    from tanren.common.plan._probe import run_probe
    from tanren.sft.config import SftConfig
    from tanren.sft.planner import PLANNER

    if resolve_source("builtin:smollm2-135m").kind != "packaged":
        pytest.skip("the package with SmolLM2's weights is not installed")
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    command = PLANNER.command
    loaded = load_config(
        SftConfig,
        recipe=ROOT / "tasks" / "structured" / "recipes" / "quickstart.toml",
        flags=["--train.rows-per-step", "64", "--train.micro-batch-tokens", "8192"],
        environment={},
        prefix=command.prefix,
        prog=command.prog,
        description="",
    ).with_values({"train.gradient_checkpointing": checkpointing}, "this test")
    target = find_target(None, None, "cuda")
    job = PLANNER.job(loaded, target)
    prediction = predict(job, job.choice, target)
    measured = run_probe("train-sft", loaded, job.choice)
    assert measured.allocated is not None
    assert prediction.allocated == pytest.approx(measured.allocated, rel=0.1)
