"""The tier `nccl`: several GPUs sum right together, and how fast; on a machine without GPUs two processes do, by gloo."""

from __future__ import annotations

from collections.abc import Iterator

from tanren.common.doctor._finding import Finding
from tanren.common.doctor._subject import Subject
from tanren.common.doctor.deep._kernels import uses_gpu
from tanren.common.doctor.deep._probe import Arguments, Probe
from tanren.common.doctor.deep._prove import prove

MEGABYTES = {"nccl": 256, "gloo": 16}
"""Of what is summed: on GPUs a large bucket of gradients."""
LIMIT = 300.0  # s


def check_nccl(subject: Subject) -> Iterator[Finding]:
    """Yield one row: the sum of all visible GPUs."""
    backend = "nccl" if uses_gpu(subject) else "gloo"
    what = "NCCL all-reduce" if backend == "nccl" else "gloo all-reduce"
    fix = f"read what NCCL says: NCCL_DEBUG=INFO {subject.run('doctor --deep nccl')}; try NCCL_P2P_DISABLE=1"
    if backend == "gloo":
        fix = "let the machine's own name lead to an address of its own (/etc/hosts), or set GLOO_SOCKET_IFNAME=lo"
    arguments: Arguments = {"backend": backend, "megabytes": MEGABYTES[backend]}
    probe = Probe(what, "tanren.common.doctor.deep._all_reduce:all_reduce", fix, arguments, limit=LIMIT)
    # NCCL says nothing of its own accord; what the user set for it holds
    variables = {"NCCL_DEBUG": subject.variables.get("NCCL_DEBUG", "WARN")}
    for finding, _ in prove(subject, [probe], variables):
        yield finding
