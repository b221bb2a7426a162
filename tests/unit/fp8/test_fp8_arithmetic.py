"""Rounding to 8 bits and its products: values as the format defines them, products and gradients of the rounded matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.common.errors import MachineError
from tanren.common.fp8 import (
    Fp8Linear,
    Rows,
    _arithmetic,
    gradient_product,
    product,
    quantise_rows,
    rounded_product,
    unrounded_inputs,
)
from tanren.common.fp8._proof import prove_products

pytestmark = pytest.mark.usefixtures("one_thread")

# float8_e4m3fn (arXiv:2209.05433, table 1): 4 bits of exponent with bias 7, 3 of mantissa, no infinity; 448 is the largest.
POSITIVE = sorted(
    {m / 8 * 2.0**-6 for m in range(8)}
    | {(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)}
)


def _nearest(value: float) -> set[float]:
    """Values of the format that are nearest to a number; two where it lies in the middle."""
    best = min(abs(abs(value) - one) for one in POSITIVE)
    return {math.copysign(one, value) for one in POSITIVE if abs(abs(value) - one) <= best * (1 + 1e-6)}


@settings(max_examples=40)
@given(st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=12))
def test_each_value_is_rounded_to_a_nearest_one_of_the_format(row: list[float]) -> None:
    found = quantise_rows(torch.tensor([row]))
    scale = float(found.scales)
    assert scale == pytest.approx(max(*map(abs, row), 1e-12) / 448, rel=1e-6)
    for value, rounded in zip(row, found.values.float()[0].tolist(), strict=True):
        assert rounded in _nearest(value / scale)


def test_each_row_has_its_own_scale_and_a_row_of_zeros_stays_so() -> None:
    x = torch.tensor([[1e-6, -2e-6], [300.0, 4.0], [0.0, 0.0]])
    found = quantise_rows(x)
    torch.testing.assert_close(found.whole(), x, rtol=1 / 16, atol=0)
    assert torch.equal(found.whole()[2], torch.zeros(2))


def test_what_is_no_number_stays_none() -> None:
    x = torch.ones(3, 16)
    x[0, 3], x[1, 5] = math.nan, math.inf
    made = product(quantise_rows(x), quantise_rows(torch.ones(16, 16)), torch.float32)
    assert made[:2].isnan().all()
    assert made[2].isfinite().all()


def test_products_are_those_of_the_rounded_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight, dy = (torch.randn(*shape, generator=generator) for shape in ((7, 32), (48, 32), (7, 48)))
    weight *= torch.logspace(-3, 2, 48)[:, None]  # outputs of very different sizes
    w = quantise_rows(weight)
    exact = w.values.double() * w.scales.double()
    rounded = quantise_rows(x).whole().double()
    torch.testing.assert_close(
        product(quantise_rows(x), w, torch.float32).double(), rounded @ exact.t(), rtol=1e-5, atol=1e-6
    )
    # The gradient's product rounds dy * scales, row by row, and multiplies the values of the forward pass.
    scaled = quantise_rows(dy * w.scales[:, 0]).whole().double()
    torch.testing.assert_close(gradient_product(dy, w).double(), scaled @ w.values.double(), rtol=1e-5, atol=1e-6)
    # Two roundings to 4 bits each: a few percent of the whole.
    for found, wanted in (
        (rounded @ exact.t(), x.double() @ weight.double().t()),
        (gradient_product(dy, w), dy @ weight),
    ):
        assert 1e-3 < float((found - wanted).norm() / wanted.norm()) < 0.06


def test_a_layer_multiplies_any_leading_shape_adds_its_bias_and_passes_gradients() -> None:
    generator = torch.Generator().manual_seed(3)
    linear = torch.nn.Linear(32, 16)
    layer = Fp8Linear(linear)
    x = torch.randn(2, 5, 32, generator=generator, requires_grad=True)
    found = layer(x)
    assert found.shape == (2, 5, 16)
    expected = product(quantise_rows(x.detach().view(10, 32)), layer.rows, torch.float32) + linear.bias
    assert torch.equal(found.detach().view(10, 16), expected)
    above = torch.randn(2, 5, 16, generator=generator)
    found.backward(above)
    assert x.grad is not None
    assert torch.equal(x.grad.view(10, 32), gradient_product(above.view(10, 16), layer.rows))
    assert [name for name, one in layer.named_parameters() if one.requires_grad] == ["bias"]
    assert layer.weight.element_size() == 1


def test_inputs_that_are_not_rounded_are_multiplied_with_the_rounded_weights() -> None:
    generator = torch.Generator().manual_seed(5)
    x, dy = torch.randn(6, 32, generator=generator), torch.randn(6, 16, generator=generator)
    weight = quantise_rows(torch.randn(16, 32, generator=generator))
    exact = weight.values.float() * weight.scales
    with unrounded_inputs():
        torch.testing.assert_close(rounded_product(x, weight), x @ exact.t())
        torch.testing.assert_close(gradient_product(dy, weight), dy @ exact)
    assert torch.equal(rounded_product(x, weight), product(quantise_rows(x), weight, torch.float32))


def test_products_are_proven_and_wrong_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Fp8Linear(torch.nn.Linear(256, 128)), Fp8Linear(torch.nn.Linear(128, 256))]
    assert 0.01 < prove_products(layers) < 0.05
    right = _arithmetic.quantise_rows
    for wrong in (
        lambda x, factors=None: Rows(right(x, factors).values.roll(1, 0), right(x, factors).scales),
        lambda x, factors=None: right(x),  # the weights' scales are forgotten in the gradient
    ):
        monkeypatch.setattr(_arithmetic, "quantise_rows", wrong)
        with pytest.raises(MachineError, match="products in 8-bit floating point are wrong on cpu"):
            prove_products(layers)
