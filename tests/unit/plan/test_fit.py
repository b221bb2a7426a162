"""What fits: the choice for a device, the changes that would help, and how close calls are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tanren.common.config import dump_toml
from tanren.common.plan import (
    GIB,
    Choice,
    Target,
    Verdict,
    find_target,
    fit,
    fits_with_margin,
    predict,
    remedies,
    verdict_of,
)
from tanren.common.plan._changes import WANTED
from tanren.sft.planner import SftJob

MakeJob = Callable[..., SftJob]
MakeTarget = Callable[..., Target]
LENGTHS = [2000] * 32
TOKENS = 8 * 2000  # of a step


@pytest.fixture
def wide_job(job: MakeJob, wide: str) -> SftJob:
    return job(wide, LENGTHS, train={"rows_per_step": 8, "micro_batch_tokens": TOKENS})


def test_with_room_everything_is_kept_and_a_step_is_one_micro_batch(wide_job: SftJob, h100: MakeTarget) -> None:
    found = fit(wide_job, h100())
    assert found.best is not None
    assert found.best.choice == Choice(TOKENS, "none")
    assert len(found.best.layout.micro_batches) == found.best.layout.steps == 4


def test_what_is_chosen_is_the_fastest_of_what_leaves_room(wide_job: SftJob, h100: MakeTarget) -> None:
    whole = predict(wide_job, Choice(TOKENS, "none"), h100(1)).needed
    target = h100(0.8 * whole / GIB + 0.7)  # with the margin less than everything
    found = fit(wide_job, target)
    assert found.best is not None
    assert found.best.choice != Choice(TOKENS, "none")
    fitting = [one for one in found.tried if fits_with_margin(one)]
    assert found.best.total_seconds == min(one.total_seconds for one in fitting)
    assert len(found.tried) > len(fitting) > 1


def test_what_the_recipe_says_stays_when_the_other_setting_is_open(wide_job: SftJob, h100: MakeTarget) -> None:
    whole = predict(wide_job, Choice(TOKENS, "none"), h100(1)).needed
    target = h100(0.55 * whole / GIB + 0.7)
    tokens = fit(wide_job, target, ("train.micro_batch_tokens",)).best
    checkpointing = fit(wide_job, target, ("train.gradient_checkpointing",)).best
    assert tokens is not None
    assert tokens.choice.checkpointing == "none"
    assert tokens.choice.micro_batch_tokens < TOKENS
    assert checkpointing is not None
    assert checkpointing.choice.checkpointing != "none"
    assert checkpointing.choice.micro_batch_tokens == TOKENS


def test_nothing_is_chosen_where_not_even_the_weights_fit(wide_job: SftJob, h100: MakeTarget) -> None:
    assert fit(wide_job, h100(0.02)).best is None


def test_prediction_is_refused_only_well_above_the_free_memory(wide_job: SftJob, h100: MakeTarget) -> None:
    prediction = predict(wide_job, wide_job.choice, h100())
    needed = prediction.needed - prediction.target.context
    for free, verdict in ((1.0, Verdict.FITS), (0.95, Verdict.TIGHT), (0.85, Verdict.REFUSED)):
        target = replace(prediction.target, free=int(prediction.needed * free))
        assert verdict_of(replace(prediction, target=target)) is verdict, needed


def test_three_changes_are_named_cheapest_first_and_each_of_them_fits(wide_job: SftJob, h100: MakeTarget) -> None:
    whole = predict(wide_job, wide_job.choice, h100(1)).needed
    prediction = predict(wide_job, wide_job.choice, h100(0.5 * whole / GIB))
    assert verdict_of(prediction) is Verdict.REFUSED
    found = remedies(wide_job, prediction)
    assert len(found) == WANTED == 3
    assert all(verdict_of(one.prediction) is Verdict.FITS for one in found)
    seconds = [one.prediction.total_seconds for one in found]
    assert seconds == sorted(seconds)
    assert all(one.flags.startswith("--") for one in found)
    assert len({one.flags for one in found}) == 3


def test_where_no_setting_helps_other_devices_are_named(wide_job: SftJob, h100: MakeTarget) -> None:
    prediction = predict(wide_job, wide_job.choice, h100(0.02))
    found = remedies(wide_job, prediction)
    assert len(found) == 3
    assert all("a GPU with" in one.flags for one in found)
    assert all(one.prediction.needed <= one.prediction.target.free for one in found)


def test_memory_grows_with_the_micro_batch_and_time_does_not(wide_job: SftJob, h100: MakeTarget) -> None:
    one, two = (predict(wide_job, Choice(tokens, "none"), h100()) for tokens in (8000, TOKENS))
    assert one.allocated < two.allocated < 2 * one.allocated
    assert two.total_seconds < one.total_seconds


def test_what_was_chosen_is_frozen_into_the_recipe_with_its_origin(wide_job: SftJob) -> None:
    frozen = wide_job.plan.loaded.with_values(wide_job.flags(Choice(8000, "selective")), "plan")
    text = dump_toml(frozen.values(), frozen.origins)
    assert "micro_batch_tokens = 8000  # plan" in text
    assert 'gradient_checkpointing = "selective"  # plan' in text
    assert frozen.config.train.micro_batch_tokens == 8000


@pytest.mark.parametrize(
    ("name", "expected"),
    [("H100", "H100"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("rtx 5080", "RTX 5080")],
)
def test_a_gpu_is_known_by_its_name(name: str, expected: str) -> None:
    assert find_target(name, None, "auto").name == expected


def test_memory_can_be_given() -> None:
    assert find_target("H100", 16, "auto").free == 16 * GIB


def test_a_probe_corrects_memory_that_grows_and_time_in_proportion(wide_job: SftJob, h100: MakeTarget) -> None:
    from tanren.common.plan._probe import Measured, corrected

    prediction = predict(wide_job, wide_job.choice, h100())
    resident = prediction.allocated - prediction.passing
    allocated = resident + 2 * prediction.passing
    measured = Measured(3 * prediction.largest_seconds, allocated, int(1.1 * allocated), GIB, None)
    found = corrected(prediction, measured)
    assert found.allocated == pytest.approx(allocated, rel=1e-6)
    assert found.needed == pytest.approx(int(1.1 * allocated) + GIB, rel=1e-6)
    assert found.largest_seconds == pytest.approx(measured.seconds)
    half = predict(wide_job, Choice(8000, "none"), found.target)
    plain = predict(wide_job, Choice(8000, "none"), h100())
    assert half.allocated - plain.allocated == pytest.approx(plain.passing, rel=1e-6)
