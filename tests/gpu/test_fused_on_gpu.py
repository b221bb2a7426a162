"""Fused layers on a CUDA device: each kernel against its plain meaning on the CPU, whole models against the library."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

from tanren.common.attention.packed import packing_arguments, registered_name  # noqa: E402 (after the skip)
from tanren.common.fused import _operations as operations  # noqa: E402
from tanren.common.fused import choose_route, linear_cross_entropy, next_token_loss, route_of  # noqa: E402

LIMITS = {"float32": 1e-6, "bfloat16": 1e-3}
"""Of ||on the GPU - on the CPU|| / ||on the CPU||: sums in another order; in bfloat16 a few results round the other way."""
EPS = 1e-6
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
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "mistral": {"model_type": "mistral", "sliding_window": 100},
    "qwen2": {"model_type": "qwen2", "head_dim": 32},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
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


class _Random:
    """Tensors of one seed and dtype, on the CPU."""

    def __init__(self, dtype: str) -> None:
        self._generator, self._dtype = torch.Generator().manual_seed(5), getattr(torch, dtype)

    def normal(self, *shape: int) -> Any:
        return torch.randn(shape, generator=self._generator).to(self._dtype)

    def product(
        self, tokens: int, widths: tuple[int, ...], ranks: tuple[int, ...], room: int
    ) -> tuple[Any, operations.Low]:
        """Return results and low-rank values; with room, both are parts of the rows that one product makes."""
        out, total = sum(widths), sum(ranks)
        if not total:
            return self.normal(tokens, out), operations.Low(None, None, ranks, widths)
        columns = -(-total // room) * room if room else total
        blocks = [self.normal(width, rank) for width, rank in zip(widths, ranks, strict=True)]
        up = torch.nn.functional.pad(torch.block_diag(*blocks), (0, columns - total))
        made = self.normal(tokens, out + columns)
        made[:, out + total :] = 0
        results, values = (one if room else one.contiguous() for one in (made[:, :out], made[:, out:]))
        return results, operations.Low(values, up, ranks, widths)


def _there(value: Any) -> Any:
    """Copy whatever holds tensors to the GPU; rows stay as far apart as they are."""
    if isinstance(value, torch.Tensor):
        if value.ndim < 2 or value.is_contiguous():
            return value.cuda()
        wide = torch.full((value.shape[0], value.stride(0)), torch.nan, dtype=value.dtype, device="cuda")
        return wide[:, : value.shape[1]].copy_(value)
    if isinstance(value, tuple | list):
        return type(value)(map(_there, value))
    if isinstance(value, operations.Low):
        return operations.Low(_there(value.values), _there(value.up), value.ranks, value.widths)
    if isinstance(value, operations.Heads):
        norms = _there(value.query_norm), _there(value.key_norm)
        return operations.Heads(value.query, value.key_value, value.size, *norms, value.eps)
    return value


def _agree(dtype: str, operation: Any, *arguments: Any) -> None:
    """Hold an operation on the GPU against the same on the CPU, and against itself."""
    expected, found, again = (
        made if isinstance(made, tuple) else (made,)
        for made in (operation(*arguments), operation(*_there(arguments)), operation(*_there(arguments)))
    )
    for index, (one, same, other) in enumerate(zip(found, again, expected, strict=True)):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            assert torch.equal(one, same)
            assert _apart(one, other) <= LIMITS[dtype], f"result {index}: {_apart(one, other):.1e}"


def _apart(one: Any, other: Any) -> float:
    found, expected = (tensor.detach().cpu().double() for tensor in (one, other))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("tokens", "width"), [(1, 64), (129, 96), (300, 2560), (17, 8192), (5, 9000)])
def test_the_norm_and_its_gradient(dtype: str, tokens: int, width: int) -> None:
    random = _Random(dtype)
    x, dy, residual = (random.normal(tokens, width) for _ in range(3))
    weight = random.normal(width)
    _agree(dtype, operations.rms_norm, x, weight, EPS)
    _agree(dtype, operations.rms_norm_backward, dy, x, weight, EPS, residual)

    def behind(dy: Any, x: Any, weight: Any) -> Any:
        dx, y = operations.rms_norm_backward(dy, x, weight, EPS, None, 16)
        assert dx.shape == (tokens, width + 16)
        return dx[:, :width], y  # what is behind is left unwritten

    _agree(dtype, behind, dy, x, weight)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("rank", [0, 1, 8, 40])
@pytest.mark.parametrize(("tokens", "width"), [(1, 64), (129, 96), (300, 2560), (17, 8192), (5, 9000)])
def test_what_a_projection_adds_and_the_norm_of_the_sum(dtype: str, rank: int, tokens: int, width: int) -> None:
    random = _Random(dtype)
    made, low = random.product(tokens, (width,), (rank,), 16)
    if low.up is not None:
        low = operations.Low(low.values, low.up.t().contiguous().t(), low.ranks, low.widths)  # as a `Stack` lays it out
    x, weight = random.normal(tokens, width), random.normal(width)
    _agree(dtype, operations.add, x, made, low)
    _agree(dtype, operations.add_norm, x, made, low, weight, EPS)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("room", [0, 16])
@pytest.mark.parametrize(
    ("ranks", "norms", "counts", "size"),
    [
        ((8, 8, 8), True, (8, 2), 128),
        ((8, 8, 8), False, (8, 2), 64),
        ((0, 0, 0), True, (4, 4), 64),
        ((16, 0, 16), True, (3, 1), 80),
        ((0, 3, 0), False, (4, 4), 128),
        ((1, 17, 64), True, (4, 2), 64),
        ((64, 64, 64), True, (4, 2), 128),
    ],
)
def test_queries_and_keys_are_adapted_normed_and_rotated(
    dtype: str, room: int, ranks: tuple[int, ...], norms: bool, counts: tuple[int, int], size: int
) -> None:
    random, tokens = _Random(dtype), 150
    query_norm, key_norm = (random.normal(size) if norms else None for _ in range(2))
    heads = operations.Heads(*counts, size, query_norm, key_norm, EPS)
    qkv, low = random.product(tokens, heads.widths, ranks, room)
    angles = random.normal(tokens, size // 2).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    _agree(dtype, operations.rotate, qkv, low, cos, sin, heads)
    above = tuple(random.normal(tokens, count, size) for count in (counts[0], counts[1], counts[1]))

    def backward(*arguments: Any) -> Any:
        made = partial(operations.rotate_backward, room=room)(*arguments)
        assert made.shape == (tokens, heads.width + room)
        return made[:, : heads.width]  # what is behind is left unwritten

    _agree(dtype, backward, above, qkv if norms else None, low, cos, sin, heads)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("room", [0, 16])
@pytest.mark.parametrize("ranks", [(0, 0, 0), (8, 8, 8), (16, 0, 3), (0, 5, 0), (1, 17, 33), (64, 64, 64)])
@pytest.mark.parametrize(("tokens", "width"), [(1, 128), (100, 100), (700, 1000)])
def test_the_gated_mlp_and_the_gradients_of_its_adapters(
    dtype: str, room: int, ranks: tuple[int, int, int], tokens: int, width: int
) -> None:
    random = _Random(dtype)
    gate_up, low = random.product(tokens, (width, width), ranks[:2], room)
    _agree(dtype, operations.swiglu, gate_up, low)
    e = random.normal(tokens, 9 + ranks[2])[:, 9:] if ranks[2] else None

    def backward(*arguments: Any) -> Any:
        d_gate_up, *others = partial(operations.swiglu_backward, room=room)(*arguments)
        assert d_gate_up.shape == (tokens, 2 * width + room)
        return (d_gate_up[:, : 2 * width], *others)

    _agree(dtype, backward, random.normal(tokens, width), e, gate_up, low)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("words", [7, 1003, 8192, 151_936])
def test_cross_entropy_and_the_gradient_in_its_place(dtype: str, words: int) -> None:
    random = _Random(dtype)
    logits, targets = random.normal(40, words) * 5, torch.arange(40) % words

    def made(logits: Any, targets: Any) -> tuple[Any, Any]:
        gradient = logits.clone()
        return operations.cross_entropy_(gradient, targets), gradient

    _agree(dtype, made, logits, targets)


@pytest.mark.parametrize("dtype", LIMITS)
def test_the_loss_in_parts_is_that_of_all_logits(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    from tanren.common.fused import _loss

    monkeypatch.setattr(_loss, "LOGITS", 64 * 1003)
    random = _Random(dtype)
    hidden, weight = random.normal(300, 128).cuda().requires_grad_(), random.normal(1003, 128).cuda().requires_grad_()
    predicting, targets = torch.arange(0, 300, 2, device="cuda"), torch.arange(150, device="cuda")
    logits = hidden.double()[predicting] @ weight.double().t()
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    wanted = torch.autograd.grad(expected, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, predicting, targets)
    # logits and their gradient are in the model's precision: bfloat16 has 8 bits
    limit = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    assert _apart(loss, expected) <= limit
    for one, other in zip(torch.autograd.grad(loss, (hidden, weight)), wanted, strict=True):
        assert _apart(one, other) <= limit


def _adapted(architecture: str, dtype: str, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    values = COMMON | ARCHITECTURES[architecture]
    torch.manual_seed(7)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    base.set_attn_implementation(registered_name("sdpa" if dtype == "float32" else "varlen"))
    for parameter in base.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.02  # fresh norms are 1 and biases 0
    model: Any = get_peft_model(base.to(getattr(torch, dtype)), LoraConfig(r=rank, target_modules=ALL))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape) * 0.02
    return model.cuda().train()


def _micro_batch() -> tuple[Any, Any, tuple[int, ...], Any, Any]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, COMMON["vocab_size"], (1, sum(LENGTHS)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    predicting = torch.arange(5, 290, 3)
    return tokens.cuda(), positions.cuda(), LENGTHS, predicting.cuda(), tokens[0, predicting + 1].cuda()


def _step(model: Any) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    loss = next_token_loss(model, *_micro_batch())
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_of_a_model_are_the_librarys(architecture: str, checkpointing: Any) -> None:
    model = _adapted(architecture, "float32", rank=8)
    choose_route(model, "plain", "none", "cuda")
    expected, wanted = _step(model)
    route = choose_route(model, "fused", checkpointing, "cuda")
    print(architecture, route.line())  # noqa: T201
    loss, found = _step(model)
    assert _apart(loss, expected) <= 1e-5
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert _apart(found[name], one) <= 1e-4, name


@pytest.mark.parametrize("rank", [8, 64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bfloat16_fused_layers_are_as_near_to_float32_as_the_librarys(architecture: str, rank: int) -> None:
    exact = _adapted(architecture, "bfloat16", rank).float()
    exact.set_attn_implementation(registered_name("sdpa"))
    tokens, positions, lengths, *_ = _micro_batch()
    above = torch.randn(sum(lengths), COMMON["hidden_size"], generator=torch.Generator().manual_seed(1)).cuda()

    def made(model: Any, hidden: Any) -> list[Any]:
        adapters = [one for one in model.parameters() if one.requires_grad]
        return [hidden, *torch.autograd.grad(hidden, adapters, above.to(hidden.dtype))]

    def by_library(model: Any) -> list[Any]:
        extra = packing_arguments(lengths, tokens.device)
        backbone = model.get_base_model().model
        return made(
            model, backbone(input_ids=tokens, position_ids=positions, use_cache=False, **extra).last_hidden_state[0]
        )

    reference = by_library(exact)
    model = _adapted(architecture, "bfloat16", rank)
    library = by_library(model)
    choose_route(model, "fused", "none", "cuda")
    fused = route_of(model).fused
    assert fused is not None
    found = made(model, fused.hidden(tokens, positions, lengths))
    errors = [
        (_apart(one, exact), _apart(other, exact)) for one, other, exact in zip(found, library, reference, strict=True)
    ]
    ours, theirs = (sum(column) / len(errors) for column in zip(*errors, strict=True))
    print(architecture, rank, f"fused {ours:.2e}, library {theirs:.2e} from float32")  # noqa: T201
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_two_runs_are_the_same_bit_for_bit(dtype: str, checkpointing: Any) -> None:
    runs = []
    for _ in range(2):
        model = _adapted("qwen3", dtype, rank=8)
        choose_route(model, "fused", checkpointing, "cuda")
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
        losses = []
        for _ in range(3):
            losses.append(_step(model)[0])
            optimizer.step()
        runs.append([*losses, *(one.detach() for one in model.parameters() if one.requires_grad)])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
