"""What the fused layers compute beside large matrix products, each in one pass over its tensors.

Here is what each operation means, in plain torch; on CUDA it is one Triton kernel (`_kernels`). On tensors without data
only shapes are made, so that the planner counts what the kernels take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, pad, silu

from tanren.common.fused import _stand_in

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Low:
    """The adapters of projections of one input: their products with A, and what B makes of them.

    `values` (tokens, columns) holds scale * x @ A.T of each, side by side. `up` (sum of widths, columns) has the B of each
    on its diagonal, (width, rank), and 0 elsewhere. A projection without an adapter has rank 0; columns behind the ranks are 0.
    Rows of `values` may lie further apart than they are long.
    """

    values: torch.Tensor | None
    up: torch.Tensor | None
    ranks: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Of `values` and `up`."""
        return 0 if self.up is None else self.up.shape[1]

    @property
    def stride(self) -> int:
        """Elements between two rows of `values`."""
        return 0 if self.values is None else self.values.stride(0)

    def blocks(self, matrix: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the blocks on the diagonal of a matrix of the form of `up`; None for rank 0."""
        found: list[torch.Tensor | None] = []
        row = column = 0
        for width, rank in zip(self.widths, self.ranks, strict=True):
            found.append(matrix[row : row + width, column : column + rank] if rank else None)
            row, column = row + width, column + rank
        return found

    def added(self) -> torch.Tensor | float:
        """What the adapters add to the projections' results, (tokens, sum of widths), in float32."""
        return 0.0 if self.values is None or self.up is None else self.values.float() @ self.up.float().t()


@dataclass(frozen=True)
class Heads:
    """The heads of a layer's attention, and the norms on queries and keys where it has them."""

    query: int
    key_value: int
    size: int
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    eps: float = 0.0

    @property
    def width(self) -> int:
        """Of queries, keys and values side by side."""
        return (self.query + 2 * self.key_value) * self.size

    @property
    def widths(self) -> tuple[int, int, int]:
        """Of queries, keys and values."""
        return self.query * self.size, self.key_value * self.size, self.key_value * self.size


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / rms(x) * weight; `x` (tokens, width). Zhang and Sennrich 2019, arXiv:1910.07467."""
    if x.is_cuda:
        return _triton().add_norm(x, None, None, weight, eps)[1]  # type: ignore[no-any-return]
    if x.is_meta:
        return _stand_in.made([x, weight], [x.shape], x.dtype)[0]
    wide = x.float()
    return (wide * _scale(wide, eps) * weight.float()).to(x.dtype)


def add(x: torch.Tensor, made: torch.Tensor, low: Low) -> torch.Tensor:
    """Return x + made + what the adapters add to `made`; `x` and `made` (tokens, width)."""
    if x.is_cuda:
        return _triton().add_norm(x, made, low, None, 0.0)[0]  # type: ignore[no-any-return]
    if x.is_meta:
        return _stand_in.made([x, made], [x.shape], x.dtype)[0]
    return (x.float() + made.float() + low.added()).to(x.dtype)


def add_norm(
    x: torch.Tensor, made: torch.Tensor, low: Low, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of `add`, and its norm (`rms_norm`)."""
    if x.is_cuda:
        return _triton().add_norm(x, made, low, weight, eps)  # type: ignore[no-any-return]
    if x.is_meta:
        total, y = _stand_in.made([x, made], [x.shape, x.shape], x.dtype)
        return total, y
    total = add(x, made, low)
    return total, rms_norm(total, weight, eps)


def rms_norm_backward(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None, room: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of `x` where `x` was normed to y, plus the gradient that reaches it past the norm; and y.

    `room`: columns behind each row of the gradient that are left unwritten.
    """
    if x.is_cuda:
        return _triton().rms_norm_backward(dy, x, weight, eps, residual, room)  # type: ignore[no-any-return]
    if x.is_meta:
        shapes = [torch.Size((x.shape[0], x.shape[1] + room)), x.shape]
        dx, y = _stand_in.made([dy, x, *([] if residual is None else [residual])], shapes, x.dtype)
        return dx, y
    wide = x.float()
    dx = _norm_gradient(dy.float() * weight.float(), wide, _scale(wide, eps))
    if residual is not None:
        dx += residual.float()
    return pad(dx.to(x.dtype), (0, room)), rms_norm(x, weight, eps)


def rotate(
    qkv: torch.Tensor, low: Low, cos: torch.Tensor, sin: torch.Tensor, heads: Heads
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add the adapters, norm queries and keys where the model does, and rotate them by their positions.

    `qkv` (tokens, heads.width) is the product with the frozen weights, `cos` and `sin` (tokens, head size). Returns
    query, key and value (tokens, heads, head size). Rotary embedding in halves: Su et al. 2021, arXiv:2104.09864.
    """
    if qkv.is_cuda:
        return _triton().rotate(qkv, low, cos, sin, heads)  # type: ignore[no-any-return]
    counts = (heads.query, heads.key_value, heads.key_value)
    if qkv.is_meta:
        shapes = [torch.Size((qkv.shape[0], count, heads.size)) for count in counts]
        q, k, v = _stand_in.made([qkv, cos, sin], shapes, qkv.dtype)
        return q, k, v
    made = []
    for index, part in enumerate((qkv.float() + low.added()).split(heads.widths, dim=1)):
        full = part.reshape(-1, counts[index], heads.size)
        if index < 2:
            norm = (heads.query_norm, heads.key_norm)[index]
            if norm is not None:
                full = full * _scale(full, heads.eps) * norm.float()
            full = full * cos.float().unsqueeze(1) + _half_turned(full) * sin.float().unsqueeze(1)
        made.append(full.to(qkv.dtype))
    return made[0], made[1], made[2]


def rotate_backward(
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    qkv: torch.Tensor | None,
    low: Low,
    cos: torch.Tensor,
    sin: torch.Tensor,
    heads: Heads,
    room: int = 0,
) -> torch.Tensor:
    """Return the gradient of `qkv` (tokens, heads.width + room); `qkv` itself is needed where queries and keys were normed.

    `room`: columns behind each row that are left unwritten.
    """
    if gradients[0].is_cuda:
        return _triton().rotate_backward(gradients, qkv, low, cos, sin, heads, room)  # type: ignore[no-any-return]
    tokens, dtype = gradients[0].shape[0], gradients[0].dtype
    if gradients[0].is_meta:
        read = [*gradients, cos, sin, *([] if qkv is None else [qkv])]
        return _stand_in.made(read, [torch.Size((tokens, heads.width + room))], dtype)[0]
    parts = []
    for index, gradient in enumerate(gradients):
        found = gradient.float()
        if index < 2:
            turned = found * sin.float().unsqueeze(1)
            found = found * cos.float().unsqueeze(1) - _half_turned(turned)
            norm = (heads.query_norm, heads.key_norm)[index]
            if norm is not None:
                assert qkv is not None
                part = (qkv.float() + low.added()).split(heads.widths, dim=1)[index]
                full = part.reshape(tokens, -1, heads.size)
                found = _norm_gradient(found * norm.float(), full, _scale(full, heads.eps))
        parts.append(found.reshape(tokens, -1))
    return pad(torch.cat(parts, dim=1).to(dtype), (0, room))


def swiglu(gate_up: torch.Tensor, low: Low) -> torch.Tensor:
    """Return silu(gate) * up with the adapters added first; `gate_up` (tokens, 2 x width). Shazeer 2020, arXiv:2002.05202."""
    if gate_up.is_cuda:
        return _triton().swiglu(gate_up, low)  # type: ignore[no-any-return]
    if gate_up.is_meta:
        return _stand_in.made([gate_up], [torch.Size((gate_up.shape[0], gate_up.shape[1] // 2))], gate_up.dtype)[0]
    gate, up = (gate_up.float() + low.added()).chunk(2, dim=1)
    return (silu(gate) * up).to(gate_up.dtype)


def swiglu_backward(
    dact: torch.Tensor, e: torch.Tensor | None, gate_up: torch.Tensor, low: Low, room: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of `gate_up` and, in float32, of down's A (but its scale), gate's B and up's B.

    `dact` (tokens, width) is the gradient of the activation, `e` (tokens, rank) that of the low-rank values which the
    adapter of the down projection makes of it. `room`: columns behind each row of the first result that are left unwritten.
    """
    if dact.is_cuda:
        return _triton().swiglu_backward(dact, e, gate_up, low, room)  # type: ignore[no-any-return]
    ranks = (0 if e is None else e.shape[1], *low.ranks)
    if dact.is_meta:
        shape = torch.Size((dact.shape[0], 2 * dact.shape[1] + room))
        out = _stand_in.made([dact, gate_up], [shape], gate_up.dtype)[0]
        sums = [dact.new_empty(rank, dact.shape[1], dtype=torch.float32) if rank else None for rank in ranks]
        return out, sums[0], *(None if one is None else one.t() for one in sums[1:])  # type: ignore[return-value]
    gate, up = (gate_up.float() + low.added()).chunk(2, dim=1)
    sigmoid = gate.sigmoid()
    act, above = gate * sigmoid * up, dact.float()
    d_down = None if e is None else e.float().t() @ act.to(dact.dtype).float()
    d_up = above * gate * sigmoid
    d_gate = above * up * (sigmoid + gate * sigmoid * (1 - sigmoid))
    d_gate_up = torch.cat((d_gate, d_up), dim=1).to(dact.dtype)
    d_gate_b, d_up_b = None, None
    if low.values is not None:
        d_gate_b, d_up_b = low.blocks(d_gate_up.float().t() @ low.values.float())
    return pad(d_gate_up, (0, room)), d_down, d_gate_b, d_up_b


def cross_entropy_(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return each row's cross entropy in nats, float32; `logits` (rows, words) become its gradient, softmax - target."""
    if logits.is_cuda:
        return _triton().cross_entropy_(logits, targets)  # type: ignore[no-any-return]
    if logits.is_meta:
        return _stand_in.made([logits, logits], [torch.Size((logits.shape[0],))], torch.float32)[0]
    wide = logits.float()
    losses = cross_entropy(wide, targets, reduction="none")
    gradient = wide.softmax(dim=1)
    gradient[torch.arange(len(targets)), targets] -= 1
    logits.copy_(gradient)
    return losses


def _triton() -> ModuleType:
    from tanren.common.fused import _kernels

    return _kernels


def _scale(x: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + eps)


def _norm_gradient(dy: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    normed = x * scale
    return scale * (dy - normed * (dy * normed).mean(dim=-1, keepdim=True))


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
