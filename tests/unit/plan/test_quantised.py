"""Frozen layers in 4 and 8 bits: bytes counted by hand, and copies that pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tanren.common.config import Quantisation
from tanren.common.errors import UserError
from tanren.common.plan import Choice
from tanren.common.plan.trace import StepTrace
from tanren.sft.planner import SftJob

MakeJob = Callable[..., SftJob]
# wide: 4 layers of q 1024 x 1024, k and v 512 x 1024, o 1024 x 1024, gate, up, down 3072 x 1024
LINEAR = 4 * (2 * 1024 * 1024 + 2 * 512 * 1024 + 3 * 3072 * 1024)


@pytest.fixture
def traced(job: MakeJob, wide: str) -> Callable[[Quantisation], StepTrace]:
    """Return a function that traces the wide model with its linear layers in so many bits."""
    plain = job(wide, [512, 512], train={"layers": "plain"})  # quantised layers are never fused

    def trace(quantisation: Quantisation) -> StepTrace:
        return plain.as_if("lora", quantisation).trace(Choice(1024, "none"))

    return trace


@pytest.mark.parametrize(("quantisation", "bytes_each"), [("nf4", 0.5 + 1 / 64 + 4 / (64 * 256)), ("int8", 1.0)])
def test_bytes_of_the_weights(
    traced: Callable[[Quantisation], StepTrace], quantisation: Quantisation, bytes_each: float
) -> None:
    plain, small = traced("none"), traced(quantisation)
    expected = plain.peak["weights"] - 2 * LINEAR + bytes_each * LINEAR
    assert small.peak["weights"] == pytest.approx(expected, rel=0.01)
    assert small.trained == plain.trained


def test_the_products_are_the_same_and_more_memory_is_moved(traced: Callable[[Quantisation], StepTrace]) -> None:
    plain, small = traced("none"), traced("nf4")
    assert small.flops == pytest.approx(plain.flops, rel=1e-6)
    moved = [sum(one.moved * number for one, number in trace.operations.items()) for trace in (plain, small)]
    assert moved[0] < moved[1] < 2 * moved[0]


def test_full_training_trains_every_parameter_with_two_states_each(job: MakeJob, wide: str) -> None:
    full = job(wide, [512, 512]).as_if("full", "none")
    trace = full.trace(Choice(1024, "none"))
    parameters = LINEAR + 8000 * 1024 + (4 * (2 * 1024 + 2 * 128) + 1024)  # linear layers, embeddings (tied), norms
    assert trace.trained == trace.parameters == parameters
    assert trace.peak["trained"] == pytest.approx(2 * parameters, rel=0.001)
    assert trace.peak["optimizer"] == pytest.approx((4 + 2 * 4) * parameters, rel=0.001)  # float32 copy, two states
    assert full.title == "all parameters"


def test_smaller_variants_keep_method_and_bits(job: MakeJob, wide: str) -> None:
    plain = job(wide, [512, 512, 100, 120, 130])
    changes = plain.as_if("lora", "nf4").changes()
    assert changes
    assert {change.job.title.rpartition(", ")[2] for change in changes} == {"frozen layers in nf4"}
    assert [change.flags for change in plain.as_if("full", "none").changes()] == [
        change.flags for change in plain.changes() if "lora" not in change.flags
    ]


def test_full_training_has_no_frozen_layers_to_quantise(job: MakeJob) -> None:
    with pytest.raises(UserError, match="--method full freezes none"):
        job().as_if("full", "nf4")


def test_the_recipes_own_method_and_bits_are_planned_unless_others_are_asked_for(job: MakeJob) -> None:
    own = job(quantisation="nf4")
    assert (own.quantisation, own.as_if(None, None).quantisation) == ("nf4", "nf4")
    assert own.as_if(None, "none").quantisation == "none"
    full = job(train={"method": "full"})
    assert full.as_if(None, None).title == "all parameters"
    assert full.as_if("lora", None).title == "LoRA rank 16 on all-linear"


def test_layers_in_8_bits_keep_their_inputs_where_checkpointing_does_not_reach_them(job: MakeJob, wide: str) -> None:
    """bitsandbytes 0.50 keeps the input in an attribute of its autograd function (`ctx.tensors`), not with save_for_backward."""
    plain = job(wide, [512, 512])
    kept = {
        quantisation: plain.as_if("lora", quantisation).trace(Choice(1024, "full")).peak["activations"]
        for quantisation in ("nf4", "int8")
    }
    # 1,024 tokens in bfloat16; q, k, v share one input, gate and up another; o and down have one each: 3 x 1024 + 3072 wide
    expected = 4 * 1024 * 2 * (3 * 1024 + 3072)
    assert kept["int8"] - kept["nf4"] == pytest.approx(expected, rel=0.3)
