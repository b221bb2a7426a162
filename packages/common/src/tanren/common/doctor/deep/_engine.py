"""The tier `vllm`: the engine starts on this GPU, and its first token is the one that the weights say."""

from __future__ import annotations

from collections.abc import Iterator

from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._subject import Subject
from tanren.common.doctor.deep._kernels import is_installed, uses_gpu
from tanren.common.doctor.deep._probe import Probe
from tanren.common.doctor.deep._prove import prove

VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the child itself: its fault is then the child's
    "VLLM_USE_DEEP_GEMM": "0",  # for FP8 models alone, and it compiles for minutes
    "VLLM_NO_USAGE_STATS": "1",
}
LIMIT = 600.0  # s: import and start take 40 on a free machine, several times that from a cold network disk


def check_vllm(subject: Subject) -> Iterator[Finding]:
    """Yield one row; where there is no vLLM by design, one that says so."""
    if not uses_gpu(subject):
        why = "without CUDA there is no vLLM" if subject.profile.cuda is None else "--no-gpu"
        yield Finding("vLLM", f"not tried: {why}", "", Verdict.OK)
        return
    fix = f"install exactly the lock: {subject.run('sync --force')}"
    if not is_installed(subject, "vllm"):
        yield Finding("vLLM", "not installed", "one token", Verdict.REFUSED, fix)
        return
    probe = Probe("vLLM", "tanren.common.doctor.deep._vllm:first_token", fix, limit=LIMIT)
    for finding, _ in prove(subject, [probe], VARIABLES):
        yield finding
