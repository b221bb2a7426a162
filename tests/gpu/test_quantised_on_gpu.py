"""Frozen weights in 4 and 8 bits on a CUDA device: kernels against their meaning on the CPU, fused layers against the library's."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

from tanren.common.attention.packed import registered_name  # noqa: E402 (after the skip)
from tanren.common.fp8 import Batch, Rows, gradient_product, product, quantise_model, quantise_rows  # noqa: E402
from tanren.common.fused import choose_route, next_token_loss  # noqa: E402
from tanren.common.nf4 import dequantise  # noqa: E402

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
COMMON: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1003,
    "max_position_embeddings": 4096,
}
LENGTHS = (301, 1, 130, 77)


@pytest.fixture(autouse=True)
def _needs_cuda() -> Iterator[None]:
    """Run as the trainers do, with sums in a fixed order."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def has_fp8() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no 8-bit matrix units")


def _normal(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _apart(one: Any, other: Any) -> float:
    found, expected = (tensor.detach().cpu().double() for tensor in (one, other))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.usefixtures("has_fp8")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (129, 2560), (17, 19456), (1000, 48)])
def test_rows_are_rounded_as_on_the_cpu_bit_for_bit(dtype: str, rows: int, width: int) -> None:
    x = (_normal(rows, width) * torch.logspace(-4, 4, rows)[:, None]).to(getattr(torch, dtype))
    x[0, : width // 2] = 0
    wide = torch.full((rows, width + 32), torch.nan, dtype=x.dtype, device="cuda")
    wide[:, :width] = x.cuda()  # rows further apart than they are long
    factors = _normal(width, seed=1).abs() + 0.1
    for there in (x.cuda(), wide[:, :width]):
        for factor in (None, factors):
            expected = quantise_rows(x, factor)
            found = quantise_rows(there, None if factor is None else factor.cuda())
            assert torch.equal(found.scales.cpu(), expected.scales)
            assert torch.equal(found.values.cpu().view(torch.uint8), expected.values.view(torch.uint8))


@pytest.mark.usefixtures("has_fp8")
def test_what_is_no_number_stays_none() -> None:
    x = torch.ones(3, 256, device="cuda", dtype=torch.bfloat16)
    x[0, 3], x[1, 5] = torch.nan, torch.inf
    made = product(quantise_rows(x), quantise_rows(torch.ones(128, 256, device="cuda")), torch.bfloat16)
    assert made[:2].isnan().all()
    assert made[2].isfinite().all()


@pytest.mark.usefixtures("has_fp8")
@pytest.mark.parametrize(
    ("tokens", "out", "width"), [(1, 64, 256), (130, 704, 256), (509, 256, 2560), (1024, 2560, 9728)]
)
def test_products_are_those_of_the_cpu(tokens: int, out: int, width: int) -> None:
    x, dy = _normal(tokens, width).bfloat16(), _normal(tokens, out, seed=1).bfloat16()
    weight = quantise_rows(_normal(out, width, seed=2) * torch.logspace(-2, 2, out)[:, None])
    there = Rows(weight.values.cuda(), weight.scales.cuda())
    exact = quantise_rows(x).whole().double() @ weight.whole().double().t()
    made = product(quantise_rows(x.cuda()), there, torch.bfloat16)
    print(f"{tokens} x {width} x {out}: forward {_apart(made, exact):.1e}")  # noqa: T201
    assert _apart(made, exact) < 1e-2
    expected = gradient_product(dy.float(), weight)
    found = gradient_product(dy.cuda(), there)
    print(f"{tokens} x {out} x {width}: to the input {_apart(found, expected):.1e}")  # noqa: T201
    assert _apart(found, expected) < 1e-2
    assert torch.equal(found, gradient_product(dy.cuda(), there))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "nested"),
    [((48, 80), True), ((300, 1024), True), ((2560, 9728), True), ((130, 130), True), ((64, 64), False)],
)
def test_4_bits_are_written_out_as_bitsandbytes_does_bit_for_bit(
    dtype: str, shape: tuple[int, int], nested: bool
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    from bitsandbytes.nn import Params4bit

    weight = (_normal(*shape) * torch.logspace(-3, 3, shape[0])[:, None]).to(getattr(torch, dtype))
    weight[0] = 0
    packed = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=nested).cuda()
    out = torch.full((shape[0] + 16, shape[1]), torch.nan, dtype=weight.dtype, device="cuda")
    dequantise(packed, out[: shape[0]])
    assert torch.equal(out[: shape[0]], functional.dequantize_4bit(packed.detach(), packed.quant_state))
    assert out[shape[0] :].isnan().all()


def _adapted(architecture: str, dtype: str, form: str, rank: int = 8) -> Any:
    """Return a random model with its layers in a form, and adapters that are not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    config = AutoConfig.for_model(architecture, **COMMON)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    base.set_attn_implementation(registered_name("sdpa" if dtype == "float32" else "varlen"))
    for parameter in base.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.02  # fresh norms are 1 and biases 0
    base = base.to(getattr(torch, dtype))
    if form == "fp8":
        quantise_model(base, "cuda")
    elif form == "nf4":
        _in_nf4(base)
    model: Any = get_peft_model(base.cuda(), LoraConfig(r=rank, target_modules=ALL))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape).cuda() * 0.02
    return model.train()


def _in_nf4(model: Any) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                packed = Linear4bit(
                    child.in_features, child.out_features, compute_dtype=child.weight.dtype, quant_type="nf4"
                )
                packed.weight = Params4bit(child.weight.detach(), requires_grad=False, quant_type="nf4")
                packed.bias = child.bias
                setattr(module, name, packed.cuda())
    model.is_loaded_in_4bit = True


def _step(model: Any) -> tuple[Any, dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, COMMON["vocab_size"], (1, sum(LENGTHS)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None].cuda()
    predicting = torch.arange(5, 290, 3)
    targets = tokens[0, predicting + 1].cuda()
    model.zero_grad()
    loss = next_token_loss(model, tokens.cuda(), positions, LENGTHS, predicting.cuda(), targets)
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_loss_and_gradients_on_4_bits_are_the_librarys(architecture: str, checkpointing: Any) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    model = _adapted(architecture, "float32", "nf4")
    choose_route(model, "plain", "none", "cuda")
    expected, wanted = _step(model)
    route = choose_route(model, "fused", checkpointing, "cuda")
    print(architecture, route.line())  # noqa: T201
    loss, found = _step(model)
    assert _apart(loss, expected) <= 1e-5
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert _apart(found[name], one) <= 1e-4, name


@pytest.mark.parametrize("form", ["nf4", "fp8"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_in_bfloat16_fused_layers_are_proven(architecture: str, form: str, request: pytest.FixtureRequest) -> None:
    if form == "fp8":
        request.getfixturevalue("has_fp8")
    elif importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    route = choose_route(_adapted(architecture, "bfloat16", form), "fused", "none", "cuda")
    print(architecture, form, route.line())  # noqa: T201
    assert route.fused is not None


@pytest.mark.usefixtures("has_fp8")
def test_gradients_on_fp8_weights_are_near_to_those_on_unrounded_ones() -> None:
    found = {}
    for form, layers in (("none", "fused"), ("fp8", "plain"), ("fp8", "fused")):
        model = _adapted("qwen3", "bfloat16", form)
        choose_route(model, layers, "none", "cuda")  # type: ignore[arg-type]
        found[form, layers] = _step(model)[1]
    exact = found.pop(("none", "fused"))
    off = {way: sum(_apart(made[name], one) for name, one in exact.items()) / len(exact) for way, made in found.items()}
    print(off)  # noqa: T201
    assert off["fp8", "fused"] <= 1.3 * off["fp8", "plain"]
    assert off["fp8", "fused"] < 0.3


@pytest.mark.parametrize("form", ["nf4", "fp8"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_two_runs_are_the_same_bit_for_bit(form: str, checkpointing: Any, request: pytest.FixtureRequest) -> None:
    if form == "fp8":
        request.getfixturevalue("has_fp8")
    elif importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    runs = []
    for _ in range(2):
        model = _adapted("qwen3", "bfloat16", form)
        choose_route(model, "fused", checkpointing, "cuda")
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
        losses = []
        for _ in range(3):
            losses.append(_step(model)[0])
            optimizer.step()
        runs.append([*losses, *(one.detach() for one in model.parameters() if one.requires_grad)])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.usefixtures("has_fp8")
def test_a_device_holds_the_rounded_model_and_one_layer_more_while_the_cost_is_measured() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = COMMON | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 6}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **values), dtype=torch.bfloat16)
    ids = torch.arange(64)[None]
    real = torch.ones_like(ids, dtype=torch.bool)
    learned = real.clone()
    learned[:, -1] = False
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    made = quantise_model(model, "cuda", Batch(ids, real, learned))
    peak, held = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    assert made.layers == 6 * 7
    assert made.cost is not None
    assert made.cost.hidden < 0.2
    largest = 2048 * 8192
    assert peak <= held + 10 * largest + 2**25  # a layer in bfloat16, or one in float32 while its product is proven
