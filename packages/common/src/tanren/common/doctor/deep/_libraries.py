"""Proofs of the libraries whose own kernels train: bitsandbytes and Liger."""

from __future__ import annotations

from typing import Any

import torch

from tanren.common.doctor.deep._measure import (
    HALF_LIMIT,
    RUNS,
    Random,
    first_and_then,
    half_precision,
    name_of,
    relative_error,
)
from tanren.common.doctor.deep._probe import Comparison, ProbeResult

NF4_LIMIT = 0.11
"""Of 4-bit weights against the numbers they stand for: NF4 in blocks of 64 loses 9.2 % of normal numbers, FP4 14 %."""
ADAMW_LIMIT = 0.05
"""Of where 8-bit AdamW leads in a few steps against 32-bit AdamW: its rounding of both moments costs 1 %."""
IGNORED = -100


def four_bit(device: str, features: int = 1024, tokens: int = 128) -> ProbeResult:
    """Run bitsandbytes' NF4 linear layer, (features, features), forward, backward to its input, and for one token."""
    import bitsandbytes

    dtype, random = half_precision(device), Random()
    weights = random.normal(features, features)
    layer = bitsandbytes.nn.Linear4bit(features, features, bias=False, compute_dtype=dtype, quant_type="nf4")
    layer.weight = bitsandbytes.nn.Params4bit(weights.clone(), requires_grad=False, quant_type="nf4")
    layer.to(device)
    inputs = random.normal(tokens, features, device=device, dtype=dtype).requires_grad_()
    upstream = random.normal(tokens, features, device=device, dtype=dtype)
    output = torch.empty(0)

    def run() -> None:
        nonlocal output
        inputs.grad = None
        output = layer(inputs)
        output.backward(upstream)

    first, then = first_and_then(run, device)
    restored = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).double().cpu()
    with torch.no_grad():  # one token without gradients goes to a kernel of its own
        token = layer(inputs[:1])
    assert inputs.grad is not None
    exact = inputs.detach().double().cpu() @ restored.T
    comparisons = (
        Comparison("weights", relative_error(restored, weights), NF4_LIMIT),
        Comparison("output", relative_error(output, exact), HALF_LIMIT),
        Comparison("gradient", relative_error(inputs.grad, upstream.double().cpu() @ restored), HALF_LIMIT),
        Comparison("one token", relative_error(token, exact[:1]), HALF_LIMIT),
    )
    return ProbeResult(f"{bitsandbytes.__version__}, NF4 and {name_of(dtype)}", first, then, comparisons)


def eight_bit_adamw(device: str, size: int = 256) -> ProbeResult:
    """Move a (size, size) weight by bitsandbytes' 8-bit AdamW and by torch's AdamW, with the same gradients."""
    import bitsandbytes

    random = Random()
    start = random.normal(size, size)
    gradients = [random.normal(size, size) for _ in range(RUNS)]
    settings: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    ours = torch.nn.Parameter(start.to(device))
    optimizer = bitsandbytes.optim.AdamW8bit([ours], **settings)
    exact = torch.nn.Parameter(start.double())
    reference = torch.optim.AdamW([exact], **settings)
    waiting = iter(gradients)

    def step() -> None:
        ours.grad = next(waiting).to(device)
        optimizer.step()

    first, then = first_and_then(step, device)
    for gradient in gradients:
        exact.grad = gradient.double()
        reference.step()
    moved = relative_error(ours.detach().cpu() - start, exact.detach() - start.double())
    return ProbeResult(
        f"{bitsandbytes.__version__}, {RUNS} steps", first, then, (Comparison("movement", moved, ADAMW_LIMIT),)
    )


def fused_cross_entropy(device: str, tokens: int = 512, features: int = 256, words: int = 4096) -> ProbeResult:
    """Run Liger's linear layer with cross entropy, some targets ignored, against torch's in float64."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    dtype, random = half_precision(device), Random()
    hidden = random.normal(tokens, features, device=device, dtype=dtype).requires_grad_()
    head = (random.normal(words, features) * features**-0.5).to(device, dtype).requires_grad_()
    targets = torch.randint(words, (tokens,), generator=random.generator).to(device)
    targets[::5] = IGNORED
    loss_of = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED)
    loss = torch.empty(0)

    def run() -> None:
        nonlocal loss
        hidden.grad = head.grad = None
        loss = loss_of(head, hidden, targets)
        loss.backward()

    first, then = first_and_then(run, device)
    exact_hidden, exact_head = (one.detach().double().cpu().requires_grad_() for one in (hidden, head))
    exact = torch.nn.functional.cross_entropy(exact_hidden @ exact_head.T, targets.cpu(), ignore_index=IGNORED)
    exact.backward()
    compared = {"loss": (loss, exact), "hidden": (hidden.grad, exact_hidden.grad), "head": (head.grad, exact_head.grad)}
    return ProbeResult(name_of(dtype), first, then, _compared(compared))


def rms_norm(device: str, tokens: int = 512, features: int = 1024) -> ProbeResult:
    """Run Liger's RMSNorm forward and backward against torch's in float64."""
    from liger_kernel.transformers import LigerRMSNorm

    dtype, random = half_precision(device), Random()
    norm = LigerRMSNorm(features, eps=1e-6).to(device, dtype)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.1 * random.normal(features))
    hidden = random.normal(tokens, features, device=device, dtype=dtype).requires_grad_()
    upstream = random.normal(tokens, features, device=device, dtype=dtype)
    output = torch.empty(0)

    def run() -> None:
        nonlocal output
        hidden.grad = norm.weight.grad = None
        output = norm(hidden)
        output.backward(upstream.clone())  # it writes the gradient in its place

    first, then = first_and_then(run, device)
    exact_hidden, exact_weight = (one.detach().double().cpu().requires_grad_() for one in (hidden, norm.weight))
    exact = torch.nn.functional.rms_norm(exact_hidden, (features,), exact_weight, 1e-6)
    exact.backward(upstream.double().cpu())
    compared = {
        "output": (output, exact),
        "hidden": (hidden.grad, exact_hidden.grad),
        "weight": (norm.weight.grad, exact_weight.grad),
    }
    return ProbeResult(name_of(dtype), first, then, _compared(compared))


def _compared(pairs: dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]) -> tuple[Comparison, ...]:
    found = []
    for what, (result, reference) in pairs.items():
        assert result is not None
        assert reference is not None
        found.append(Comparison(what, relative_error(result, reference), HALF_LIMIT))
    return tuple(found)
