"""The limits of errors in doctor --deep: what is right stays below them, and what they are for goes over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tanren.common.doctor.deep import _vllm as vllm
from tanren.common.doctor.deep._measure import FLOAT32_LIMIT, HALF_LIMIT, Random, relative_error

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_relative_error_is_that_of_the_norms() -> None:
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert not relative_error(torch.tensor([3.0, float("nan")]), torch.tensor([3.0, 4.0])) <= 1


def test_float32s_limit_lets_float32_pass_and_not_tf32() -> None:
    random = Random()
    left, right = (random.normal(512, 512) for _ in range(2))
    exact = left.double() @ right.double()
    # TF32 keeps 10 bits after the point of what it multiplies
    short = [(one.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32) for one in (left, right)]
    assert relative_error(left @ right, exact) < FLOAT32_LIMIT / 10
    assert relative_error(short[0] @ short[1], exact) > 10 * FLOAT32_LIMIT


def test_half_precisions_limit_lets_a_rounded_result_pass_and_not_a_lost_row() -> None:
    random = Random()
    left, right = (random.normal(512, 512).bfloat16() for _ in range(2))
    exact = left.double() @ right.double()
    lost = exact.clone()
    lost[17] = 0
    assert relative_error(exact.bfloat16(), exact) < HALF_LIMIT / 3
    assert relative_error(lost, exact) > 3 * HALF_LIMIT


def test_the_engines_limit_lets_bfloat16_pass_and_not_another_prompt(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    reference = vllm.save_model(tmp_path, torch.bfloat16)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)

    def distance(prompt: tuple[int, ...]) -> float:
        with torch.no_grad():
            top = half(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1).topk(vllm.TOP)
        found = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return vllm.distance(found, reference.tolist())

    assert distance(vllm.PROMPT) < vllm.LIMIT / 2
    assert distance((8, *vllm.PROMPT[1:])) > 2 * vllm.LIMIT
    assert distance(vllm.PROMPT[1:]) > 2 * vllm.LIMIT
