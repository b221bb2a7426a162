"""Each fused operation against autograd through the plain formula, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.fused._operations import (
    Heads,
    Low,
    add,
    add_norm,
    cross_entropy_,
    rms_norm,
    rms_norm_backward,
    rotate,
    rotate_backward,
    swiglu,
    swiglu_backward,
)

pytestmark = pytest.mark.usefixtures("one_thread")
EPS = 1e-6
RANKS = st.sampled_from([0, 1, 3, 8])
ROOMS = st.sampled_from([0, 3, 16])
SEEDS = st.integers(0, 2**31)


class _Random:
    """Tensors of one seed, in float32; `room`: columns that are left behind the rows of results, as one product makes them."""

    def __init__(self, seed: int, room: int = 0) -> None:
        self._generator, self._room = torch.Generator().manual_seed(seed), room

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    def low(self, tokens: int, widths: tuple[int, ...], ranks: tuple[int, ...]) -> Low:
        if not any(ranks):
            return Low(None, None, ranks, widths)
        blocks = [self.normal(width, rank) for width, rank in zip(widths, ranks, strict=True)]
        up = torch.nn.functional.pad(torch.block_diag(*blocks), (0, self._room))
        values = self.normal(tokens, 5 + up.shape[1])[:, 5:]  # rows lie further apart than they are long
        values[:, sum(ranks) :] = 0
        return Low(values, up, ranks, widths)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double().requires_grad_()


def _same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.detach(), rtol=2e-5, atol=2e-5)


def _normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, weight.shape, weight.double(), EPS)


def _adapted(frozen: torch.Tensor, low: Low, bs: list[torch.Tensor | None]) -> torch.Tensor:
    """Add to each projection's part what its adapter makes of its own low-rank values."""
    if low.values is None:
        return frozen
    parts, values = frozen.split(low.widths, dim=1), low.values.double()[:, : sum(low.ranks)].split(low.ranks, dim=1)
    return torch.cat(
        [part if b is None else part + value @ b.t() for part, value, b in zip(parts, values, bs, strict=True)], dim=1
    )


def _bs(low: Low) -> list[torch.Tensor | None]:
    found = [] if low.up is None else low.blocks(low.up)
    return [None if one is None else _wide(one) for one in found] or [None] * len(low.ranks)


@given(st.integers(1, 9), st.integers(1, 40), SEEDS)
def test_the_norm_and_its_gradient_past_the_residual(tokens: int, width: int, seed: int) -> None:
    random = _Random(seed)
    x, weight, dy, residual = (random.normal(*shape) for shape in ((tokens, width), (width,), *[(tokens, width)] * 2))
    exact = _wide(x)
    expected = _normed(exact, weight)
    (gradient,) = torch.autograd.grad(expected, exact, dy.double())
    _same(rms_norm(x, weight, EPS), expected)
    # a tiny row has a large gradient: measured against the largest
    scale = max(1.0, float(gradient.abs().max()))
    for past, room in ((residual, 0), (residual, 16), (None, 3)):
        dx, y = rms_norm_backward(dy, x, weight, EPS, past, room)
        assert dx.shape == (tokens, width + room)
        whole = gradient if past is None else gradient + past.double()
        _same(dx[:, :width] / scale, whole / scale)
        _same(y, expected)


@given(st.integers(1, 9), st.integers(1, 40), RANKS, ROOMS, SEEDS)
def test_what_a_projection_adds_is_summed_with_its_adapter_and_normed(
    tokens: int, width: int, rank: int, room: int, seed: int
) -> None:
    random = _Random(seed, room)
    x, made, weight = random.normal(tokens, width), random.normal(tokens, width + room)[:, :width], random.normal(width)
    low = random.low(tokens, (width,), (rank,))
    expected = x.double() + _adapted(made.double(), low, _bs(low))
    _same(add(x, made, low), expected)
    total, y = add_norm(x, made, low, weight, EPS)
    assert torch.equal(total, add(x, made, low))
    assert torch.equal(y, rms_norm(total, weight, EPS))


@given(
    st.integers(1, 9),
    st.sampled_from([(1, 1), (4, 2), (6, 2)]),
    st.sampled_from([2, 6, 16]),
    st.booleans(),
    ROOMS,
    SEEDS,
)
@pytest.mark.parametrize("ranks", [(0, 0, 0), (8, 8, 8), (3, 0, 1), (0, 2, 0), (0, 0, 5), (4, 7, 2)])
def test_queries_and_keys_are_adapted_normed_and_rotated(
    ranks: tuple[int, ...], tokens: int, counts: tuple[int, int], size: int, norms: bool, room: int, seed: int
) -> None:
    random = _Random(seed, room)
    query_norm, key_norm = (random.normal(size) if norms else None for _ in range(2))
    heads = Heads(*counts, size, query_norm, key_norm, EPS)
    low = random.low(tokens, heads.widths, ranks)
    qkv = random.normal(tokens, heads.width)
    angles = random.normal(tokens, size // 2).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    exact = _wide(qkv)
    expected = _rotated(_adapted(exact, low, _bs(low)), heads, angles.double())
    found = rotate(qkv, low, cos, sin, heads)
    assert [one.shape for one in found] == [(tokens, count, size) for count in (counts[0], counts[1], counts[1])]
    for one, other in zip(found, expected, strict=True):
        _same(one, other)

    above = [random.normal(*one.shape) for one in found]
    (gradient,) = torch.autograd.grad(expected, exact, [one.double() for one in above])
    scale = max(1.0, float(gradient.abs().max()))
    made = rotate_backward((above[0], above[1], above[2]), qkv if norms else None, low, cos, sin, heads, room)
    assert made.shape == (tokens, heads.width + room)
    _same(made[:, : heads.width] / scale, gradient / scale)


def _rotated(qkv: torch.Tensor, heads: Heads, angles: torch.Tensor) -> list[torch.Tensor]:
    """Turn each pair (i, i + size / 2) by its angle, as complex numbers."""
    parts = []
    for index, part in enumerate(qkv.split(heads.widths, dim=1)):
        full = part.unflatten(1, (-1, heads.size))
        if index < 2:
            norm = (heads.query_norm, heads.key_norm)[index]
            full = full if norm is None else _normed(full, norm)
            first, second = full.chunk(2, dim=2)
            turn = torch.polar(torch.ones_like(angles), angles)[:, None, : heads.size // 2]
            turned = torch.complex(first.contiguous(), second.contiguous()) * turn
            full = torch.cat((turned.real, turned.imag), dim=2)
        parts.append(full)
    return parts


@given(st.integers(1, 9), st.integers(1, 33), RANKS, RANKS, RANKS, ROOMS, SEEDS)
def test_the_gated_mlp_and_the_gradients_of_three_adapters(
    tokens: int, width: int, gate_rank: int, up_rank: int, down_rank: int, room: int, seed: int
) -> None:
    random = _Random(seed, room)
    low = random.low(tokens, (width, width), (gate_rank, up_rank))
    gate_up, dy = random.normal(tokens, 2 * width), random.normal(tokens, 11)
    weight, a, b = random.normal(11, width), random.normal(down_rank, width), random.normal(11, down_rank)

    exact, bs, exact_a = _wide(gate_up), _bs(low), _wide(a)
    gate, up = _adapted(exact, low, bs).chunk(2, dim=1)
    act = torch.nn.functional.silu(gate) * up
    result = act @ weight.double().t() + act @ exact_a.t() @ b.double().t()
    wanted = [one for one in (exact, exact_a if down_rank else None, *bs) if one is not None]
    expected = torch.autograd.grad(result, wanted, dy.double())

    _same(swiglu(gate_up, low), act)
    e = dy @ b if down_rank else None
    made = swiglu_backward(dy @ weight + dy @ b @ a, e, gate_up, low, room)
    assert made[0].shape == (tokens, 2 * width + room)
    found = (made[0][:, : 2 * width], *made[1:])
    assert [one is not None for one in found] == [True, *(rank > 0 for rank in (down_rank, gate_rank, up_rank))]
    for one, other in zip([one for one in found if one is not None], expected, strict=True):
        scale = max(1.0, float(other.abs().max()))
        _same(one / scale, other / scale)


@given(st.integers(1, 9), st.integers(2, 50), st.floats(0.1, 30), SEEDS)
def test_cross_entropy_leaves_the_gradient_where_the_logits_were(
    rows: int, words: int, scale: float, seed: int
) -> None:
    logits = _Random(seed).normal(rows, words) * scale
    targets = torch.randint(0, words, (rows,), generator=torch.Generator().manual_seed(seed))
    exact = _wide(logits)
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    losses = cross_entropy_(logits, targets)
    assert losses.dtype == torch.float32
    _same(losses / scale, expected / scale)
    _same(logits, gradient)


def _moved(low: Low, device: str) -> Low:
    if low.values is None or low.up is None:
        return low
    values, up = (one.to(device, torch.bfloat16) for one in (low.values, low.up))
    return Low(values, up, low.ranks, low.widths)


@pytest.mark.parametrize("ranks", [(0, 0), (4, 0), (4, 2)])
def test_on_tensors_without_data_the_same_shapes_and_dtypes_are_made(ranks: tuple[int, int]) -> None:
    tokens, width, rank = 5, 12, 3
    random = _Random(1)
    low = random.low(tokens, (width, width), ranks)
    gate_up, d_act, e = (random.normal(*shape) for shape in ((tokens, 2 * width), (tokens, width), (tokens, rank)))
    heads = Heads(2, 1, 6, random.normal(6), random.normal(6), EPS)
    qkv, cos = random.normal(tokens, heads.width), random.normal(tokens, 6)
    qkv_low = random.low(tokens, heads.widths, (*ranks, 0))
    for device in ("cpu", "meta"):
        on = [one.to(device, torch.bfloat16) for one in (gate_up, d_act, e, qkv, cos)]
        lows = [_moved(one, device) for one in (low, qkv_low, random.low(tokens, (width,), ranks[:1]))]
        rotated = rotate(on[3], lows[1], on[4], on[4], heads)
        made = [
            swiglu(on[0], lows[0]),
            *swiglu_backward(on[1], on[2], on[0], lows[0], 16),
            *rotated,
            rotate_backward(rotated, on[3], lows[1], on[4], on[4], heads, 16),
            rms_norm(on[1], on[1][0], EPS),
            add(on[1], on[1], lows[2]),
            *add_norm(on[1], on[1], lows[2], on[1][0], EPS),
            *rms_norm_backward(on[1], on[1], on[1][0], EPS, on[1]),
            *rms_norm_backward(on[1], on[1], on[1][0], EPS, None, 16),
            cross_entropy_(on[1].clone(), torch.zeros(tokens, dtype=torch.int64, device=device)),
        ]
        forms_made = [None if one is None else (one.shape, one.dtype) for one in made]
        if device == "cpu":
            expected = forms_made
    assert forms_made == expected
