"""Proofs of the attention kernels, by the package that chooses among them for training."""

from __future__ import annotations

import time

from tanren.common.doctor.deep._probe import Comparison, ProbeResult


def kernels(device: str) -> ProbeResult:
    """Name the attention kernels that are installed and served on a device."""
    begun = time.perf_counter()
    from tanren.common.attention import runnable_kernels

    names = runnable_kernels(device)
    assert names, "SDPA runs everywhere"
    return ProbeResult(", ".join(names), time.perf_counter() - begun, names=names)


def kernel(name: str, device: str) -> ProbeResult:
    """Run a kernel forward and backward against its reference."""
    from tanren.common.attention import prove_kernel

    proof = prove_kernel(name, device)
    if proof.fault:
        raise RuntimeError(proof.fault)
    errors = {"output": proof.forward_error, "gradients": proof.gradient_error}
    comparisons = tuple(Comparison(what, error, proof.limit) for what, error in errors.items())
    return ProbeResult("forward and backward, samples kept apart", proof.first_seconds, proof.seconds, comparisons)
