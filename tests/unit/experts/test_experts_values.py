"""Grouped experts compute what PEFT's merged adapters and the library's loop over experts compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tanren.common.experts import choose_experts
from tanren.common.experts._model import outermost, within
from tanren.common.experts._products import Groups, add_by_expert, by_expert, sums_by_expert

from .conftest import DOWN, GATE_UP, MakeExperts, Pass

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    off = (found - expected).norm() / expected.norm()
    assert off < 1e-5, f"{off:.1e}"


def _grouped(model: Any) -> None:
    choice = choose_experts(model, "grouped", proven=False)
    assert choice is not None
    assert choice.grouped


CASES: list[tuple[str, dict[str, Any]]] = [
    ("tiny-qwen3-moe", {}),
    ("tiny-gpt-oss", {}),
    ("mixtral", {}),
    ("tiny-qwen3-moe", {"rank": 3, "rslora": True}),
    ("tiny-gpt-oss", {"rank": 5, "rslora": True}),
    ("tiny-qwen3-moe", {"parameters": (DOWN,)}),
    ("tiny-gpt-oss", {"parameters": (GATE_UP,)}),
    ("tiny-gpt-oss", {"parameters": ("1.mlp.experts.down_proj",)}),
    ("tiny-qwen3-moe", {"parameters": ()}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_logits_and_all_gradients_are_those_of_merged_adapters(
    mixture: MakeExperts, run_pass: Pass, name: str, settings: dict[str, Any]
) -> None:
    model = mixture(name, **settings)
    model.get_base_model().set_experts_implementation("eager")
    logits, gradients = run_pass(model)
    _grouped(model)
    found, same = run_pass(model)
    _close(found, logits)
    assert same.keys() == gradients.keys()
    assert {weight.dtype for weight in same.values()} == {torch.float32}
    for parameter, gradient in gradients.items():
        _close(same[parameter], gradient)


@pytest.mark.parametrize("name", ["tiny-qwen3-moe", "tiny-gpt-oss"])
@pytest.mark.parametrize(
    "index",
    [
        [[0, 1], [0, 2], [0, 1], [0, 2]],  # one expert has all tokens, one none
        [[3, 3], [3, 3], [3, 3], [3, 3]],  # one has all there are
        [[2, 0]],  # a single token
    ],
)
def test_experts_with_all_tokens_and_with_none(mixture: MakeExperts, name: str, index: list[list[int]]) -> None:
    model = mixture(name)
    module: Any = next(outermost(model))
    generator = torch.Generator().manual_seed(5)
    x, weights = torch.randn(len(index), 64, generator=generator), torch.rand(len(index), 2, generator=generator)
    chosen = torch.tensor(index)
    above = torch.randn(len(index), 64, generator=generator)
    adapters = [weight for weight in module.parameters() if weight.requires_grad]
    made = []
    for way in ("eager", "tanren_grouped"):
        within(module).config._experts_implementation = way
        inputs = [x.clone().requires_grad_(), weights.clone().requires_grad_()]
        out = module(inputs[0], chosen, inputs[1])
        grads = torch.autograd.grad(out, [*inputs, *adapters], above)
        made.append((out, *grads))
    for found, expected in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_a_router_gives_zero_weight_takes_no_part(mixture: MakeExperts) -> None:
    module: Any = next(outermost(mixture("tiny-gpt-oss")))
    within(module).config._experts_implementation = "tanren_grouped"
    x = torch.randn(6, 64)
    out = module(x, torch.tensor([[1, 2]] * 6), torch.zeros(6, 2))
    assert torch.equal(out, torch.zeros(6, 64))


def test_two_passes_are_the_same_to_the_bit(mixture: MakeExperts, run_pass: Pass) -> None:
    model = mixture("tiny-qwen3-moe")
    _grouped(model)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run_pass(model), run_pass(model)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, second[1][name]) for name, one in first[1].items())


def test_in_bfloat16_a_small_update_is_there_which_merging_rounds_away(mixture: MakeExperts) -> None:
    # Weights of 0.02 are at least 6e-5 apart in bfloat16; the adapter adds 1.5 * 8 * 1e-2 * 1e-4 to each.
    model = mixture("tiny-qwen3-moe", (GATE_UP,), torch.bfloat16)
    module: Any = next(outermost(model))
    experts = within(module)
    x = 1 + torch.randn(256, 64, generator=torch.Generator().manual_seed(4))
    tokens = x, torch.arange(4).repeat(64)[:, None], torch.ones(256, 1)

    def change(way: str, dtype: torch.dtype) -> torch.Tensor:
        """Of what the experts compute, by a small update of the adapter."""
        experts.config._experts_implementation = way
        module.to(dtype)
        made = []
        for up in (0.0, 1e-4):
            module.lora_A["default"].weight.data.fill_(1e-2)
            module.lora_B["default"].weight.data.fill_(up)
            made.append(module(tokens[0].to(dtype), tokens[1], tokens[2].to(dtype)).detach().float())
        difference: torch.Tensor = made[1] - made[0]
        return difference

    merged, grouped = (change(way, torch.bfloat16) for way in ("eager", "tanren_grouped"))
    exact = change("eager", torch.float32)
    shares = [float((one * exact).sum() / exact.square().sum()) for one in (merged, grouped)]
    assert shares[1] > 0.75
    assert shares[0] < 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_by_expert_are_those_of_each_row_with_its_own_matrix(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(9)
    counts = [3, 0, 5, 1, 0]
    expert = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    groups = Groups(torch.tensor(counts).cumsum(0).int())
    rows, other = (torch.randn(9, width, generator=generator).to(dtype) for width in (7, 4))
    matrices = torch.randn(5, 7, 4, generator=generator).to(dtype)
    each = torch.einsum("ri,rio->ro", rows.double(), matrices[expert].double())
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(by_expert(rows, matrices, groups).double(), each, rtol=limit, atol=limit)
    added = add_by_expert(other.clone(), rows, matrices, groups)
    torch.testing.assert_close(added.double(), other.double() + each, rtol=limit, atol=limit)
    one_hot = torch.nn.functional.one_hot(expert, 5).double()
    outer = torch.einsum("re,ri,ro->eio", one_hot, rows.double(), other.double())
    torch.testing.assert_close(sums_by_expert(rows, other, groups).double(), outer, rtol=limit, atol=limit)
    assert groups.empty().tolist() == [False, True, False, False, True]
