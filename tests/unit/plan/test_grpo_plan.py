"""The phases of GRPO on one GPU, against sums made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tanren.common.config import Loaded
from tanren.common.plan import GIB, Choice, Target, fit, predict, verdict_of
from tanren.common.plan.trace import shape_of
from tanren.common.vllm_memory import VllmMemory, kv_bytes
from tanren.grpo.config import GrpoConfig
from tanren.grpo.planner import PLANNER, GrpoJob

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
MakeTarget = Callable[..., Target]
QWEN3_4B = {"num_hidden_layers": 36, "num_key_value_heads": 8, "num_attention_heads": 32, "head_dim": 128}


@pytest.fixture
def grpo(wide: str, h100: MakeTarget) -> Callable[..., GrpoJob]:
    """Return a function that gives the GRPO job of a wide model of few layers."""

    def make(target: Target | None = None, **sections: dict[str, Any]) -> GrpoJob:
        config = GrpoConfig.model_validate({"model": {"name": wide}} | sections)
        return PLANNER.job(Loaded(config, {}, None), target or h100())

    return make


def test_the_kv_cache_of_a_sequence() -> None:
    config = shape_of("4b", {"model_type": "qwen3", "hidden_size": 2560, **QWEN3_4B}).config
    assert kv_bytes(config, 1000) == 2 * 36 * 8 * 128 * 2 * 1000  # keys and values, layers, heads, size, bfloat16


def test_sliding_layers_hold_no_more_than_their_window() -> None:
    values = {
        "model_type": "gpt_oss",
        "num_hidden_layers": 4,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
    }
    config = shape_of("oss", values).config  # every second layer slides
    assert kv_bytes(config, 1000) == 2 * 2 * 8 * 64 * (2 * 128 + 2 * 1000)


def test_the_cache_is_what_the_share_leaves() -> None:
    config = shape_of("4b", {"model_type": "qwen3", "hidden_size": 2560, **QWEN3_4B}).config
    engine = VllmMemory(
        config, 8 * GIB, 80 * GIB, prompt_tokens=800, new_tokens=512, prompts=4, sequences=64, graphs=True
    )
    # Four prompts once each; every completion with one more block, for the prompt's last tokens are its own.
    step = 4 * kv_bytes(config, 800) + 64 * kv_bytes(config, 512 + 16)
    assert engine.cache(engine.most) == pytest.approx(step, abs=1)
    assert engine.cache(engine.least) == pytest.approx(kv_bytes(config, 1312), abs=1)
    assert engine.held(engine.cache(engine.most)) == pytest.approx(64)
    assert engine.cache(0.01) == 0
    assert replace(engine, graphs=False).most < engine.most


def test_the_largest_phase_decides(grpo: Callable[..., GrpoJob], h100: MakeTarget) -> None:
    job = grpo(vllm={"gpu_memory_utilization": 0.9})
    prediction = predict(job, Choice(2048, "full"), h100())
    assert prediction.largest_phase == "generate"
    small = predict(grpo(vllm={"gpu_memory_utilization": 0.1}), Choice(65536, "none"), h100())
    assert small.largest_phase == "train"
    assert small.needed == max(small.phase_bytes(phase) for phase in small.phases)
    assert set(small.phases) == {"generate", "wake, sync", "train"}


def test_an_engine_that_does_not_sleep_is_there_in_training(grpo: Callable[..., GrpoJob], h100: MakeTarget) -> None:
    choice, share = Choice(8192, "none"), 0.3
    awake, asleep = (
        predict(grpo(vllm={"gpu_memory_utilization": share, "sleep_level": level}), choice, h100()) for level in (0, 1)
    )
    more = sum(awake.phases["train"].values()) - sum(asleep.phases["train"].values())
    assert more == pytest.approx(share * awake.target.total - GIB // 2, rel=0.01)
    assert awake.phases["generate"] == asleep.phases["generate"]


def test_the_share_holds_a_whole_step_where_there_is_room_and_less_where_there_is_not(
    grpo: Callable[..., GrpoJob], h100: MakeTarget
) -> None:
    for gib, whole in ((79, True), (2.4, False)):
        job = grpo(h100(gib))
        prediction = predict(job, Choice(2048, "full"), h100(gib))
        held = job.engine.held(job.engine.cache(job.share(prediction.components, h100(gib))))
        assert verdict_of(prediction) == "fits"
        assert held == pytest.approx(64, abs=0.1) if whole else 1 <= held < 64


ROLLOUT = {"prompts_per_step": 2, "completions_per_prompt": 5, "max_prompt_tokens": 100, "max_new_tokens": 300}


def test_a_prompt_counts_once_for_its_group(grpo: Callable[..., GrpoJob]) -> None:
    layout = grpo(rollout=ROLLOUT).layout(Choice(1700, "none"))
    assert layout.micro_batches[:2] == (1600, 1600)
    assert layout.tokens == 100 * 2 * 1600
    assert layout.supervised == 100 * 10 * 300
    assert (layout.first.lengths, layout.first.follows) == ((100, *[300] * 5), (False, *[True] * 5))
    both = grpo(rollout=ROLLOUT).layout(Choice(3200, "none"))
    assert (both.micro_batches[0], both.later) == (3200, None)
    parts = grpo(rollout=ROLLOUT).layout(Choice(1000, "none"))  # three completions and two, of each group
    assert parts.micro_batches[:4] == (1000, 1000, 700, 700)


def test_sharing_is_planned_as_faster_and_of_the_same_memory(grpo: Callable[..., GrpoJob], h100: MakeTarget) -> None:
    alone, shared = (
        predict(grpo(rollout=ROLLOUT, train={"share_prompts": mode}), Choice(1600, "none"), h100())
        for mode in ("off", "auto")
    )
    assert shared.total_seconds < 0.9 * alone.total_seconds
    assert sum(shared.phases["train"].values()) < 1.2 * sum(alone.phases["train"].values())


def test_micro_batches_hold_whole_sequences_and_every_completion_comes_once(grpo: Callable[..., GrpoJob]) -> None:
    job = grpo(rollout=ROLLOUT, train={"share_prompts": "off"})
    layout = job.layout(Choice(1700, "none"))
    assert layout.micro_batches[:3] == (1600, 1600, 800)
    assert layout.steps == 100
    assert layout.tokens == sum(layout.micro_batches) == 100 * 10 * 400
    assert layout.first.supervised == 4 * 300


def test_a_fitted_plan_freezes_the_share_with_the_choice(grpo: Callable[..., GrpoJob], h100: MakeTarget) -> None:
    target = h100(24)
    job = grpo(target, train={"micro_batch_tokens": "auto", "gradient_checkpointing": "auto"})
    best = fit(job, target).best
    assert best is not None
    frozen = job.frozen(best.choice, best.components, target)
    loaded = job.loaded.with_values(frozen, "plan")
    assert loaded.config.vllm.gpu_memory_utilization == frozen["vllm.gpu_memory_utilization"]
    again = predict(grpo(target, **loaded.values()), best.choice, target)
    assert again.needed == pytest.approx(best.needed, rel=0.01)
