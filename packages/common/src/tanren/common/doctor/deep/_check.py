"""The tiers one after another, each with its total time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._imports import check_imports
from tanren.common.doctor._subject import Subject
from tanren.common.doctor.deep._collective import check_nccl
from tanren.common.doctor.deep._engine import check_vllm
from tanren.common.doctor.deep._kernels import check_kernels
from tanren.common.doctor.deep._prove import as_time

CHECKS: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "kernels": check_kernels,
    "imports": check_imports,
    "vllm": check_vllm,
    "nccl": check_nccl,
}


def check_deep(subject: Subject, tiers: Iterable[str]) -> Iterator[Finding]:
    """Yield the rows of each tier as they become known, and after each its time."""
    for tier in tiers:
        begun = time.monotonic()
        yield from CHECKS[tier](subject)
        yield Finding(f"tier {tier}", as_time(time.monotonic() - begun), "", Verdict.OK)
