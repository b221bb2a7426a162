"""Frozen linear layers in 8-bit floating point: values in float8_e4m3fn, one scale for each output (docs/speed.md)."""

from tanren.common.fp8._arithmetic import (
    Rows,
    gradient_product,
    product,
    quantise_rows,
    rounded_product,
    unrounded_inputs,
)
from tanren.common.fp8._cost import Batch, Cost, first_rows
from tanren.common.fp8._linear import Fp8Linear
from tanren.common.fp8._model import Quantised, quantise_model, quantised_layers, require_fp8, require_fp8_here

__all__ = [
    "Batch",
    "Cost",
    "Fp8Linear",
    "Quantised",
    "Rows",
    "first_rows",
    "gradient_product",
    "product",
    "quantise_model",
    "quantise_rows",
    "quantised_layers",
    "require_fp8",
    "require_fp8_here",
    "rounded_product",
    "unrounded_inputs",
]
