"""Frozen layers in 4 and 8 bits: bytes counted by hand, copies that pass, and what fused layers share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tanren.common.config import Quantisation
from tanren.common.errors import UserError
from tanren.common.plan import Choice, find_target
from tanren.common.plan._command import run_plan
from tanren.common.plan._operations import Operation
from tanren.common.plan._prediction import Pace
from tanren.common.plan.trace import StepTrace
from tanren.sft.planner import SftJob

MakeJob = Callable[..., SftJob]
# wide: 4 layers of q 1024 x 1024, k and v 512 x 1024, o 1024 x 1024, gate, up, down 3072 x 1024
LINEAR = 4 * (2 * 1024 * 1024 + 2 * 512 * 1024 + 3 * 3072 * 1024)


@pytest.fixture
def traced(job: MakeJob, wide: str) -> Callable[[Quantisation], StepTrace]:
    """Return a function that traces the wide model with its linear layers in so many bits."""
    plain = job(wide, [512, 512], train={"layers": "plain"})

    def trace(quantisation: Quantisation) -> StepTrace:
        return plain.as_if("lora", quantisation).trace(Choice(1024, "none"))

    return trace


@pytest.mark.parametrize(
    ("quantisation", "bytes_each"), [("nf4", 0.5 + 1 / 64 + 4 / (64 * 256)), ("int8", 1.0), ("fp8", 1.0)]
)
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


def test_fused_layers_on_4_bits_take_one_matrix_more_for_all_layers(job: MakeJob, wide: str) -> None:
    fused, plain = (
        job(wide, [512, 512], train={"layers": layers}, lora={"rank": 8})
        .as_if("lora", "nf4")
        .trace(Choice(1024, "none"))
        for layers in ("auto", "plain")
    )
    # The largest is gate and up with room for their A: 6144 + 16 rows of 1024. And A in bfloat16, B on a diagonal, of each layer.
    scratch = 2 * (6144 + 16) * 1024
    low = 32 * 1024 + 16 * 1024 + 16 * 1024 + 16 * 3072  # of q, k, v; o; gate and up; down: each with room
    up = 2048 * 32 + 1024 * 16 + 6144 * 16 + 1024 * 16
    expected = plain.peak["weights"] + scratch + 4 * 2 * (low + up)
    assert fused.peak["weights"] == pytest.approx(expected, rel=0.005)
    assert fused.peak["activations"] < plain.peak["activations"]


def test_fused_layers_on_fp8_weights_keep_one_copy_and_pass_bytes(job: MakeJob, wide: str) -> None:
    plain = job(wide, [512, 512], lora={"rank": 8})
    traces = {
        quantisation: plain.as_if("lora", quantisation).trace(Choice(1024, "none")) for quantisation in ("none", "fp8")
    }
    zeros = 4 * (32 * 1024 + 16 * 1024 + 16 * 1024 + 16 * 3072)  # rows that make room for low-rank values: see above
    expected = traces["none"].peak["weights"] - LINEAR + zeros
    assert traces["fp8"].peak["weights"] == pytest.approx(expected, rel=0.005)
    assert traces["fp8"].flops == pytest.approx(traces["none"].flops, rel=0.01)
    fast = sum(one.flops * number for one, number in traces["fp8"].operations.items() if one.matrix == "float8_e4m3fn")
    # forward and to the input, but of q, k and v of the first layer: nothing is learned below
    assert fast == pytest.approx(2 * 1024 * (2 * LINEAR + zeros - 2048 * 1024), rel=1e-6)


def test_products_of_8_bit_numbers_are_planned_at_twice_the_rate() -> None:
    pace = Pace(find_target("H100", None, "auto"))
    seconds = [
        pace.device({Operation(1e15, 0, matrix): 1})["compute"] for matrix in ("float8_e4m3fn", "bfloat16", "float32")
    ]
    assert seconds[0] == pytest.approx(seconds[1] / 2)
    assert seconds[1] < seconds[2]


def test_a_gpu_that_has_no_8_bit_matrix_units_is_told_in_the_plan(tiny_recipe: Path) -> None:
    with pytest.raises(UserError, match=r"needs a GPU of compute capability 8\.9 or newer, and A100 has 8\.0"):
        run_plan([str(tiny_recipe), "--gpu", "A100", "--quantisation", "fp8"])


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """Return a recipe of the tiny model on a few rows."""
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]
    rows.write_text((json.dumps({"messages": turns}) + "\n") * 4, encoding="utf-8")
    recipe = tmp_path / "tiny.toml"
    values = f'[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "{rows}"\n[evaluation]\nenabled = false\n'
    recipe.write_text(values, encoding="utf-8")
    return recipe
