"""Grouped experts on a CUDA device: kernels against their plain meaning on the CPU, layers against PEFT's merged weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")]
torch = pytest.importorskip("torch")

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402 (after the skip)

from tanren.common.config import LoraConfig  # noqa: E402
from tanren.common.experts import choose_experts  # noqa: E402
from tanren.common.experts._gate import Gate  # noqa: E402
from tanren.common.experts._low_rank import LowRank  # noqa: E402
from tanren.common.experts._model import outermost, within  # noqa: E402
from tanren.common.experts._products import Groups, add_by_expert, by_expert, sums_by_expert  # noqa: E402
from tanren.common.lora import attach_adapter  # noqa: E402

LIMITS = {"float32": 1e-5, "bfloat16": 1e-2}
"""Of ||on the GPU - in float64 on the CPU||: float32 results are rounded to the dtype once or twice on the way."""
PEFT_LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of ||grouped - merged||: merged weights are rounded to the dtype."""
COMMON: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1003,
    "num_experts_per_tok": 4,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"moe_intermediate_size": 96, "num_experts": 16, "norm_topk_prob": True},
    "mixtral": {"intermediate_size": 160, "num_local_experts": 8},
    "gpt_oss": {"intermediate_size": 192, "num_local_experts": 12},
}
COUNTS = (300, 0, 5, 130, 1, 77, 0)


@pytest.fixture(autouse=True)
def _needs_cuda() -> Iterator[None]:
    """Run as the trainers do, with sums in a fixed order, and what is not written left as it is."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


def _apart(one: Any, other: Any) -> float:
    found, expected = (tensor.detach().cpu().double() for tensor in (one, other))
    return float((found - expected).norm() / expected.norm())


def _normal(dtype: str, *shape: int) -> Any:
    return torch.randn(shape).to(getattr(torch, dtype))


def _low_rank(dtype: str, rank: int, first: int, second: int) -> LowRank | None:
    if not rank:
        return None
    experts = len(COUNTS)
    return LowRank(_normal(dtype, experts, rank, first), _normal(dtype, experts, rank, second), rank, 1.0)


def _moved(value: Any, to: Any) -> Any:
    """Return tensors on another device, or of another dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(to)
    if isinstance(value, LowRank):
        return replace(value, a=value.a.to(to), b=value.b.to(to))
    if isinstance(value, tuple):
        return tuple(_moved(one, to) for one in value)
    return value


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("width", [96, 200])
@pytest.mark.parametrize("ranks", [(8, 8), (8, 0), (0, 8), (0, 0), (24, 64)])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_the_gates_kernels(architecture: str, ranks: tuple[int, int], width: int, dtype: str) -> None:
    torch.manual_seed(5)
    rows, groups = sum(COUNTS), Groups(torch.tensor(COUNTS).cumsum(0).int())
    gate = Gate.of(within(next(outermost(_model(architecture, "float32", rank=8)))))
    assert gate.kind is not None
    bias = None if gate.bias is None else _normal(dtype, len(COUNTS), 2 * width)
    gate_up, d_gated = 3 * _normal(dtype, rows, 2 * width), _normal(dtype, rows, width)
    low, d_low = (_normal(dtype, rows, rank) if rank else None for rank in ranks)
    adapters = _low_rank(dtype, ranks[0], 16, 2 * width), _low_rank(dtype, ranks[1], width, 16)
    share = torch.rand(rows).to(getattr(torch, dtype))

    def both(to: Any, groups: Groups) -> list[Any]:
        there = replace(gate, bias=_moved(bias, to))
        made = _moved(gate_up, to).clone()
        forward = there.forward(made, _moved(low, to), _moved(adapters[0], to), groups)
        arguments = (_moved(d_gated, to).clone(), _moved(d_low, to), made, _moved(low, to), _moved(share, to))
        return [forward, *there.backward(*arguments, _moved(adapters, to), groups)]

    on_gpu = Groups(groups.ends.cuda())
    found, again, expected = both("cuda", on_gpu), both("cuda", on_gpu), both(torch.float64, groups)
    for index, (one, same, other) in enumerate(zip(found, again, expected, strict=True)):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.equal(one, same)
            assert _apart(one, other) <= LIMITS[dtype], f"result {index}: {_apart(one, other):.1e}"


@pytest.mark.parametrize("dtype", LIMITS)
def test_products_by_expert(dtype: str) -> None:
    torch.manual_seed(6)
    rows, groups = sum(COUNTS), Groups(torch.tensor(COUNTS).cumsum(0).int())
    left, right, small = _normal(dtype, rows, 96), _normal(dtype, rows, 200), _normal(dtype, rows, 8)
    wide, narrow = _normal(dtype, len(COUNTS), 96, 200), _normal(dtype, len(COUNTS), 8, 200)
    on_gpu = Groups(groups.ends.cuda())
    cases: Any = (
        (by_expert, (left, wide)),
        (by_expert, (left, wide.transpose(1, 2).contiguous().transpose(1, 2))),
        (sums_by_expert, (small, right)),
        (add_by_expert, (right, small, narrow)),
    )
    torch.full((50_000_000,), torch.nan, device="cuda")  # what is handed out next is not 0 by chance
    for operation, tensors in cases:
        expected = operation(*(one.double() for one in tensors), groups)
        found = operation(*(one.cuda().clone() for one in tensors), on_gpu)
        assert _apart(found, expected) <= LIMITS[dtype], operation.__name__
    assert found.isfinite().all()


def _model(architecture: str, dtype: str, rank: int, **settings: Any) -> Any:
    torch.manual_seed(1)
    values = COMMON | ARCHITECTURES[architecture] | settings
    config = AutoConfig.for_model(architecture, **values)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).cuda()
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora = LoraConfig(rank=rank, alpha=2 * rank, target_modules=["q_proj"], target_parameters=targets)
    adapted = attach_adapter(model, lora)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or name.endswith("bias"):
                weight.normal_(std=0.05)
    return adapted.train()


def _layer_pass(model: Any) -> list[Any]:
    """Return the first layer's result and all its gradients; the last expert has no token."""
    module: Any = next(outermost(model))
    experts = within(module)
    weight, count = experts.gate_up_proj, experts.num_experts
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand((500, count), generator=generator)
    scores[:, -1] = -1
    index = scores.topk(4).indices.cuda()
    x, above = (torch.randn((500, 256), generator=generator).to(weight) for _ in range(2))
    share = torch.rand(index.shape, generator=generator).to(weight).requires_grad_()
    x.requires_grad_()
    out = module(x, index, share)
    adapters = [one for one in module.parameters() if one.requires_grad]
    return [out, *torch.autograd.grad(out, [x, share, *adapters], above)]


@pytest.mark.parametrize("dtype", PEFT_LIMITS)
@pytest.mark.parametrize("rank", [3, 8, 12])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_layer_is_that_of_merged_weights_and_the_same_to_the_bit_each_time(
    architecture: str, rank: int, dtype: str
) -> None:
    model = _model(architecture, dtype, rank)
    model.get_base_model().set_experts_implementation("eager")
    expected = _layer_pass(model)
    choice = choose_experts(model, "grouped")
    assert choice is not None
    print(architecture, rank, dtype, choice.line())  # noqa: T201
    found, again = _layer_pass(model), _layer_pass(model)
    for index, (one, same, other) in enumerate(zip(found, again, expected, strict=True)):
        assert torch.equal(one, same)
        assert _apart(one, other) <= PEFT_LIMITS[dtype], f"result {index}: {_apart(one, other):.1e}"


def test_merged_weights_are_never_made() -> None:
    model = _model("qwen3_moe", "bfloat16", 8, hidden_size=512, moe_intermediate_size=512, num_experts=64)
    base = model.get_base_model()
    choose_experts(model, "grouped")
    weights = sum(getattr(within(next(outermost(model))), name).nbytes for name in ("gate_up_proj", "down_proj"))
    peaks = {}
    for way in ("tanren_grouped", "grouped_mm"):
        base.set_experts_implementation(way)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(input_ids=torch.arange(64, device="cuda")[None], use_cache=False).logits.mean().backward()
        peaks[way] = torch.cuda.max_memory_allocated() - before
    print(weights, peaks)  # noqa: T201
    assert peaks["tanren_grouped"] < weights / 2
    assert peaks["grouped_mm"] > 2 * weights  # of both layers
