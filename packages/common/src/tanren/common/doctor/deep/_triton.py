"""Proof of Triton: a kernel compiled now, for this chip, by the ptxas that the environment names."""

from __future__ import annotations

import os

from tanren.common.doctor.deep._probe import Comparison, ProbeResult

VARIABLE = {"ptxas": "TRITON_PTXAS_PATH", "ptxas_blackwell": "TRITON_PTXAS_BLACKWELL_PATH"}
BLACKWELL = 100  # sm_: from here on Triton 3.6 takes its second ptxas (triton/backends/nvidia/compiler.py)


def kernel(device: str, size: int = 512) -> ProbeResult:
    """Multiply matrices and sum the rows of the product; the cache of compiled kernels must be empty."""
    import torch
    import triton

    from tanren.common.doctor.deep._measure import (
        FLOAT32_LIMIT,
        HALF_LIMIT,
        Random,
        first_and_then,
        half_precision,
        relative_error,
    )
    from tanren.common.doctor.deep._triton_kernel import product_and_row_sums

    random, dtype = Random(), half_precision(device)
    left, right = (random.normal(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.full((size, size), torch.nan, device=device)
    sums = torch.full((size,), torch.nan, device=device)
    compiled = []
    first, then = first_and_then(lambda: compiled.append(product_and_row_sums(left, right, product, sums)), device)
    reference = left.double().cpu() @ right.double().cpu()
    comparisons = (
        Comparison("product", relative_error(product, reference), FLOAT32_LIMIT),
        Comparison("sums of rows", relative_error(sums, reference.sum(1)), HALF_LIMIT),
    )
    chip = compiled[0].metadata.target.arch
    return ProbeResult(f"triton {triton.__version__}, sm_{chip} by {_ptxas(chip)}", first, then, comparisons)


def _ptxas(chip: int) -> str:
    """Return which ptxas Triton takes; RuntimeError where the environment names another one."""
    import triton

    tool = "ptxas_blackwell" if chip >= BLACKWELL else "ptxas"
    taken = getattr(triton.knobs.nvidia, tool)
    named = os.environ.get(VARIABLE[tool])
    if named and taken.path != named:
        raise RuntimeError(f"{VARIABLE[tool]} names {named}, and Triton took {taken.path} ({taken.version})")
    return f"ptxas {taken.version} ({taken.path})"
