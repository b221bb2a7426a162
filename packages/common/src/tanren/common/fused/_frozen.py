"""The frozen weights of one input's projections, in the forms in which a model may keep them.

plain: 16 or 32 bits; one joint matrix, with room for the adapters' A below the weights.
fp8:   8-bit floating point (tanren.common.fp8): inputs and gradients are rounded too, and A stays apart, in 16 bits; the
       product writes zeros where the low-rank values come.
nf4:   bitsandbytes' 4 bits; before each product they are written, and A below them, into a matrix of the joint form that all
       layers share. So the products are those of plain weights, and memory is that of 4 bits and one matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch

from tanren.common.fp8 import Fp8Linear, Rows, gradient_product, rounded_product
from tanren.common.nf4 import dequantise

Form = Literal["plain", "nf4", "fp8"]
STANDS_FOR = "stands_for"
"""Attribute of a layer without data that the planner puts in the place of bitsandbytes': nf4, int8."""
_BITSANDBYTES = {"Linear4bit": "nf4", "Linear8bitLt": "int8"}


class UnknownFormError(Exception):
    """Why frozen weights cannot be taken into fused layers."""


def form_of(layer: Any) -> Form:
    """Return how a linear layer (below its adapter) keeps its weights. Raises UnknownFormError for a form that is not known."""
    kind = type(layer)
    if kind is torch.nn.Linear:
        return "plain"
    if kind is Fp8Linear:
        return "fp8"
    known = _BITSANDBYTES.get(kind.__name__) if kind.__module__.startswith("bitsandbytes.") else None
    found = getattr(layer, STANDS_FOR, known)
    if found == "int8":
        raise UnknownFormError(
            "the product of int8 weights rounds its inputs to 8 bits as well, which fused layers do not: they would learn on other "
            "numbers than are evaluated (model.quantisation = nf4 and fp8 are fused)"
        )
    if found != "nf4":
        raise UnknownFormError(f"a projection is of the kind {kind.__name__}")
    return "nf4"


class Scratch:
    """Memory for one matrix, as large as the largest that is asked of it, which layers fill in turn."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._held: torch.Tensor | None = None

    def reserve(self, rows: int, columns: int, like: torch.Tensor) -> None:
        """Make room for a matrix of that size, on the device and in the precision of `like`."""
        if self._held is None or len(self._held) < rows * columns:
            self._held = like.new_empty(rows * columns)

    def matrix(self, rows: int, columns: int) -> torch.Tensor:
        """Return the matrix: what stood there belongs to another layer."""
        assert self._held is not None, "room is reserved first"
        return self._held[: rows * columns].view(rows, columns)


class Frozen(ABC):
    """Weights W (out, width) of projections one below the other; products are with (tokens, ...).

    `room`: rows of the adapters' A, and columns for their products behind those of W.
    """

    low_rows: torch.Tensor
    """Where the adapters' A stand, (room, width): `product` and `gradient` take them with W."""

    def __init__(self, out: int, width: int, room: int, empty: torch.Tensor) -> None:
        """`empty`: a tensor of the device and precision in which is computed."""
        self.out, self.width, self.room, self._empty = out, width, room, empty

    def zeros(self, *shape: int) -> torch.Tensor:
        """Return zeros where the weights are, in the precision of the products."""
        return self._empty.new_zeros(*shape)

    @abstractmethod
    def product(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return x @ [W; A].T + bias, (tokens, out + room)."""

    @abstractmethod
    def gradient(self, dy: torch.Tensor) -> torch.Tensor:
        """Return dy @ [W; A], (tokens, width); `dy` (tokens, out + room)."""


class Joint(Frozen):
    """Weights that are, or become for a product, one matrix: W, and A below it."""

    @abstractmethod
    def matrix(self) -> torch.Tensor:
        """Return [W; A], (out + room, width)."""

    def product(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """See `Frozen.product`."""
        weight = self.matrix().t()
        return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)

    def gradient(self, dy: torch.Tensor) -> torch.Tensor:
        """See `Frozen.gradient`."""
        return torch.mm(dy, self.matrix())


class PlainWeights(Joint):
    """Weights in the precision of the products."""

    def __init__(self, layers: Sequence[Any], room: int) -> None:
        """Join the weights: each layer's own becomes a part of the joint matrix, so nothing is held twice."""
        self._whole = joined([layer.weight for layer in layers], room)
        super().__init__(len(self._whole) - room, self._whole.shape[1], room, self._whole)
        self.low_rows = self._whole[self.out :]

    def matrix(self) -> torch.Tensor:
        """See `Joint.matrix`."""
        return self._whole


class FourBitWeights(Joint):
    """Weights in 4 bits, made whole for each product in memory that all layers share."""

    def __init__(self, layers: Sequence[Any], room: int, scratch: Scratch) -> None:
        """Leave the weights with their layers: evaluation and saving use them there."""
        self._layers, self._scratch, first = layers, scratch, layers[0]
        empty = first.weight.new_empty(0, dtype=first.compute_dtype)
        super().__init__(sum(layer.out_features for layer in layers), first.in_features, room, empty)
        self._rows = list(pairwise(accumulate((layer.out_features for layer in layers), initial=0)))
        self.low_rows = self.zeros(room, self.width)
        scratch.reserve(self.out + room, self.width, empty)

    def matrix(self) -> torch.Tensor:
        """See `Joint.matrix`."""
        whole = self._scratch.matrix(self.out + self.room, self.width)
        for layer, (begin, end) in zip(self._layers, self._rows, strict=True):
            _dequantise(layer, whole[begin:end])
        whole[self.out :].copy_(self.low_rows)
        return whole


class Fp8Weights(Frozen):
    """Weights in 8-bit floating point, multiplied as they are; A would be rounded with them if it stood in one matrix with them."""

    def __init__(self, layers: Sequence[Fp8Linear], room: int) -> None:
        """Join values and scales: each layer's own become parts of the joint ones, so nothing is held twice."""
        values = joined([layer.weight for layer in layers], room)
        self._rows = Rows(values.view(layers[0].rows.values.dtype), joined([layer.scales for layer in layers], room))
        out = len(values) - room
        super().__init__(out, values.shape[1], room, values.new_empty(0, dtype=layers[0].compute_dtype))
        self.low_rows = self.zeros(room, self.width)
        self._own_rows = Rows(self._rows.values[:out], self._rows.scales[:out])

    def product(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """See `Frozen.product`."""
        made = rounded_product(x, self._rows)
        if bias is not None:
            made += bias
        if self.room:
            torch.mm(x, self.low_rows.t(), out=made[:, self.out :])
        return made

    def gradient(self, dy: torch.Tensor) -> torch.Tensor:
        """See `Frozen.gradient`."""
        dx = gradient_product(dy[:, : self.out], self._own_rows)
        return dx.addmm_(dy[:, self.out :], self.low_rows) if self.room else dx


def frozen_weights(layers: Sequence[Any], room: int, scratch: Scratch) -> Frozen:
    """Return the weights of linear layers of one form, with `room` rows for adapters where the form has a place for them."""
    form = form_of(layers[0])
    if form == "fp8":
        return Fp8Weights(layers, room)
    return FourBitWeights(layers, room, scratch) if form == "nf4" else PlainWeights(layers, room)


def joined(parameters: Sequence[torch.Tensor], room: int) -> torch.Tensor:
    """Return one tensor of all parameters, end to end, and `room` rows of zeros; each becomes a view of its part.

    One alone, without room, stays as it is.
    """
    if len(parameters) == 1 and not room:
        return parameters[0].detach()
    empty = parameters[0].new_zeros(room, *parameters[0].shape[1:])
    joint = torch.cat([*(parameter.detach() for parameter in parameters), empty])
    for parameter, part in zip(parameters, joint.split([len(one) for one in [*parameters, empty]])[:-1], strict=True):
        parameter.data = part
    return joint


def _dequantise(layer: Any, out: torch.Tensor) -> None:
    """Write a 4-bit layer's weights to `out`, (out, width): the values that the layer itself multiplies with."""
    if layer.weight.is_meta:
        _made_whole(layer.weight.detach(), layer.scales, out)
    else:
        dequantise(layer.weight, out)


@torch.library.custom_op("tanren_fused::made_whole", mutates_args=("out",))
def _made_whole(packed: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_made_whole.register_fake
def _made_whole_shape(packed: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    del packed, scales, out
