"""Products in 8 bits held against the same ones in float32, on the device and the weights that will be used."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tanren.common.errors import MachineError
from tanren.common.fp8._arithmetic import gradient_product, rounded_product
from tanren.common.fp8._linear import Fp8Linear

LIMIT = 0.1
"""Of ||product - exact|| / ||exact||: rounding one factor to 4 bits makes 2.6e-2; a wrong layout or scale near 1."""
TOKENS = 33


def prove_products(layers: Iterable[Fp8Linear]) -> float:
    """Return the largest error of one layer of each form, forward and to the input. Raises MachineError where it is no rounding."""
    forms = {(layer.in_features, layer.out_features): layer for layer in layers}
    off = [error for layer in forms.values() for error in _errors(layer)]
    wrong = [error for error in off if not error <= LIMIT]
    if wrong:
        device = next(iter(forms.values())).weight.device
        raise MachineError(
            f"products in 8-bit floating point are wrong on {device}: {wrong[0]:.1e} from those in float32 (limit {LIMIT:.0e}); leave "
            "model.quantisation at none, or take nf4"
        )
    return max(off)


def _errors(layer: Fp8Linear) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    weight, exact = layer.rows, layer.rows.whole()
    x, dy = (
        torch.randn(TOKENS, width, generator=generator).to(weight.values.device, layer.compute_dtype)
        for width in (layer.in_features, layer.out_features)
    )
    pairs = ((rounded_product(x, weight), x.float() @ exact.t()), (gradient_product(dy, weight), dy.float() @ exact))
    return [float((found.float() - wanted).norm() / wanted.norm()) for found, wanted in pairs]
