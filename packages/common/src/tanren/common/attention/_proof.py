"""Is the kernel right on this machine? Forward and backward on small packed samples, against float64.

Not the version is believed but the numbers, gradients too: a kernel can give good outputs and train badly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tanren.common.attention._choice import KERNELS, gpu_facts, installed_kernels
from tanren.common.attention._select import select_attention
from tanren.common.attention._traits import AttentionTraits
from tanren.common.errors import UserError

if TYPE_CHECKING:
    import torch

    from tanren.common.attention._packing import Packing, Scores

LENGTHS = (200, 1, 67, 130)
"""Of the samples: across, at and within the kernels' tiles of 64 and 128, and the shortest there is."""
WINDOW = 48
"""Tokens; narrower than the samples, so that it shows."""
LIMITS = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 2e-2}
"""Of ||found - reference|| / ||reference||: a few roundings of the precision. bfloat16 rounds at 4e-3, and the weights,
the output and its gradient are each rounded once or twice; a wrong mask or a missing term is beyond 1e-1."""
LONGEST_FAULT = 200
"""Characters: a kernel's compiler may answer with pages."""
LLAMA_LIKE = AttentionTraits(heads=8, kv_heads=2, head_dim=128, value_dim=128)


@dataclass(frozen=True)
class Proof:
    """What a kernel computed, compared; the errors are those of its worst part."""

    kernel: str
    forward_error: float = float("nan")
    gradient_error: float = float("nan")
    limit: float = 0.0
    isolated: bool = False
    """Whether samples stayed the same, bit for bit, when another one was changed."""
    first_seconds: float = 0.0
    """Of the first forward and backward pass, with what was compiled for it."""
    seconds: float = 0.0
    """Of the second."""
    fault: str = ""
    """Why it is not good; '' where it is."""

    @property
    def good(self) -> bool:
        """Whether the kernel may be used."""
        return not self.fault

    def __str__(self) -> str:
        """Say the proof in half a line."""
        if self.fault:
            return self.fault
        times = f"{self.seconds * 1e3:.1f} ms, the first time {self.first_seconds:.1f} s"
        return f"errors {self.forward_error:.1e} forward, {self.gradient_error:.1e} in gradients (limit {self.limit:.0e}); {times}"


def runnable_kernels(device: str) -> tuple[str, ...]:
    """Return the installed kernels that serve a torch device for the most usual models (no extras, heads of 128)."""
    gpu, installed = gpu_facts(device), installed_kernels()
    found = []
    for kernel in KERNELS:
        try:
            select_attention(gpu, installed, LLAMA_LIKE, dtype=_dtype(device), named=kernel)
        except UserError:
            continue
        found.append(kernel)
    return tuple(found)


def prove_kernel(
    kernel: str,
    device: str,
    traits: AttentionTraits = LLAMA_LIKE,
    dtype: str | None = None,
    seed: int = 1,
    *,
    deterministic: bool = False,
) -> Proof:
    """Run a kernel on packed samples of the traits' kind and compare with float64; it raises nothing: faults are told.

    With windows, layers with and without one are proven. `deterministic`: with sums in a fixed order, which are other
    kernels.
    """
    dtype = dtype or _dtype(device)
    limit = LIMITS[dtype]
    proof = Proof(kernel, 0.0, 0.0, limit, isolated=True)
    for window in (0, WINDOW) if traits.windows else (0,):
        try:
            with _order_of_sums(deterministic):
                part = _prove(kernel, device, traits, dtype, window, seed)
        except Exception as error:  # noqa: BLE001 (whatever a kernel dies of is the finding)
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            return Proof(kernel, limit=limit, fault=f"{type(error).__name__}: {reason}"[:LONGEST_FAULT])
        proof = replace(
            proof,
            forward_error=_worst(proof.forward_error, part.forward_error),
            gradient_error=_worst(proof.gradient_error, part.gradient_error),
            isolated=proof.isolated and part.isolated,
            first_seconds=proof.first_seconds + part.first_seconds,
            seconds=proof.seconds + part.seconds,
        )
    faults = [
        f"{what} is off by {error:.1e} against float64, over the limit of {limit:.0e}"
        for what, error in (("its output", proof.forward_error), ("its gradient", proof.gradient_error))
        if not error <= limit  # NaN is not
    ]
    faults += [] if proof.isolated else ["a sample changes when another one is changed"]
    return replace(proof, fault="; ".join(faults))


@contextmanager
def _order_of_sums(deterministic: bool) -> Iterator[None]:
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _dtype(device: str) -> str:
    gpu = gpu_facts(device)
    if gpu is None:
        return "float32"
    return "bfloat16" if gpu.compute_capability >= (8, 0) else "float16"


def _prove(kernel: str, device: str, traits: AttentionTraits, dtype: str, window: int, seed: int) -> Proof:
    import torch

    from tanren.common.attention._packing import Packing, Scores
    from tanren.common.attention.packed import attend

    packing = Packing.of(LENGTHS, device)
    tensors = _tensors(traits, device, dtype, seed)
    sinks = tensors[3] if traits.sinks else None
    scores = Scores(traits.head_dim**-0.5, window, traits.softcap, sinks)
    inputs = tensors if traits.sinks else tensors[:3]

    def run() -> tuple[torch.Tensor, tuple[torch.Tensor, ...], float]:
        begun = time.perf_counter()
        # Freed at once: what the kernel then allocates and does not write holds NaN.
        torch.full((4 * tensors[0].numel(),), float("nan"), dtype=tensors[0].dtype, device=device)
        query, key, value, _ = tensors
        out = attend(kernel, query, key, value, packing, scores)
        gradients = torch.autograd.grad(out, inputs, _direction(out))
        _wait(device)
        return out, gradients, time.perf_counter() - begun

    _, _, first = run()
    out, gradients, seconds = run()
    expected, expected_gradients = _reference(tensors, packing, scores)
    return Proof(
        kernel,
        _error(out, expected),
        _worst(*(_error(found, right) for found, right in zip(gradients, expected_gradients, strict=True))),
        isolated=_isolated(kernel, tensors, packing, scores, out),
        first_seconds=first,
        seconds=seconds,
    )


def _tensors(traits: AttentionTraits, device: str, dtype: str, seed: int) -> tuple[torch.Tensor, ...]:
    """Query, key, value, (1, heads, tokens, size), and sinks, (heads,): two key-value heads, shared as the model does."""
    import torch

    groups = min(traits.kv_heads, 2)
    heads = groups * (traits.heads // traits.kv_heads)
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (1, heads, sum(LENGTHS), traits.head_dim),
        (1, groups, sum(LENGTHS), traits.head_dim),
        (1, groups, sum(LENGTHS), traits.value_dim),
        (heads,),
    )
    made = (torch.randn(shape, generator=generator).to(device, getattr(torch, dtype)) for shape in shapes)
    return tuple(tensor.requires_grad_() for tensor in made)


def _direction(out: torch.Tensor) -> torch.Tensor:
    """The gradient that comes in from above: random, the same for every kernel."""
    import torch

    generator = torch.Generator().manual_seed(2)
    return torch.randn(out.shape, generator=generator).to(out.device, out.dtype)


def _reference(
    tensors: tuple[torch.Tensor, ...], packing: Packing, scores: Scores
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Output, (1, tokens, heads, size), and gradients in float64: one softmax over all tokens, with one mask for all."""
    import torch

    exact = tuple(tensor.detach().double().cpu().requires_grad_() for tensor in tensors)
    query, key, value, sinks = exact
    owner = torch.repeat_interleave(torch.arange(len(packing.lengths)), torch.tensor(packing.lengths))
    place = torch.arange(packing.tokens)
    distance = place[:, None] - place[None, :]
    seen = (owner[:, None] == owner[None, :]) & (distance >= 0)
    if scores.window:
        seen &= distance < scores.window
    repeats = query.shape[1] // key.shape[1]
    raw = torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(repeats, dim=1)) * scores.scale
    if scores.softcap:
        raw = scores.softcap * torch.tanh(raw / scores.softcap)
    raw = raw.masked_fill(~seen, -torch.inf)
    if scores.sinks is not None:
        raw = torch.cat([raw, sinks.reshape(1, -1, 1, 1).expand(1, -1, packing.tokens, 1)], dim=-1)
    weights = torch.softmax(raw, dim=-1)[..., : packing.tokens]
    out = torch.einsum("bhqk,bhkd->bqhd", weights, value.repeat_interleave(repeats, dim=1))
    inputs = exact if scores.sinks is not None else exact[:3]
    return out, torch.autograd.grad(out, inputs, _direction(out).to(tensors[0].dtype).double())


def _isolated(
    kernel: str, tensors: tuple[torch.Tensor, ...], packing: Packing, scores: Scores, before: torch.Tensor
) -> bool:
    """Whether the last sample's output stays the same, bit for bit, when all others are changed."""
    import torch

    from tanren.common.attention.packed import attend

    first = packing.tokens - packing.lengths[-1]
    with torch.no_grad():
        query, key, value = (tensor.clone() for tensor in tensors[:3])
        for tensor in (query, key, value):
            tensor[:, :, :first] = tensor[:, :, :first].flip(-1) + 1
        after = attend(kernel, query, key, value, packing, scores)
    return torch.equal(before[:, first:], after[:, first:])


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    difference = found.detach().double().cpu() - expected.detach()
    return float(difference.norm() / expected.detach().norm())


def _worst(*errors: float) -> float:
    """Return the largest; NaN where one is, which max() would lose."""
    return next((error for error in errors if math.isnan(error)), max(errors))


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)
