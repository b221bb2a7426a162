"""The tier `kernels`: torch, Triton, attention, bitsandbytes and Liger compute right, and how fast the device can be."""

from __future__ import annotations

import importlib.machinery
from collections.abc import Iterator, Mapping

from tanren.common.ceilings import write_ceilings
from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._subject import Subject
from tanren.common.doctor.deep._ceilings import ceilings_of
from tanren.common.doctor.deep._probe import Arguments, Probe
from tanren.common.doctor.deep._prove import prove

_HERE = "tanren.common.doctor.deep"
SIZES: Mapping[str, Mapping[str, float]] = {"matmul": {"size": 1024}, "bandwidth": {}, "matrix_rate": {}}
"""Arguments that are sizes, by the name of the function that takes them."""

# Triton compiles Liger's and our kernels anew: a kernel from the cache would prove nothing about the compiler.
VARIABLES = {"TRITON_CACHE_DIR": "{folder}/triton"}


def uses_gpu(subject: Subject) -> bool:
    """Whether the proofs run on a GPU."""
    return subject.profile.cuda is not None and subject.wants_gpu


def check_kernels(subject: Subject, sizes: Mapping[str, Mapping[str, float]] = SIZES) -> Iterator[Finding]:
    """Yield a row for each proof; with all of them, the ceilings are written down."""
    numbers = dict[str, float | str]()
    probes = [*_compute(subject, sizes), *_libraries(subject), *_ceilings(subject, sizes)]
    measures = {probe.what for probe in _ceilings(subject, sizes)}
    for finding, result in prove(subject, probes, VARIABLES):
        yield finding
        if result and finding.what in measures:
            measures.remove(finding.what)
            numbers |= result.numbers
    if not measures:
        path = write_ceilings(ceilings_of(numbers))
        yield Finding("ceilings", f"written to {path}, for planner and speed reports", "", Verdict.OK)
    if not uses_gpu(subject):
        why = "this is an environment without CUDA" if subject.profile.cuda is None else "--no-gpu"
        yield Finding("GPU kernels", f"not tried: {why}", "", Verdict.OK)


def _device(subject: Subject) -> str:
    return "cuda:0" if uses_gpu(subject) else "cpu"


def _compute(subject: Subject, sizes: Mapping[str, Mapping[str, float]]) -> Iterator[Probe]:
    gpu, device = uses_gpu(subject), _device(subject)
    fix = f"install exactly the lock: {subject.run('sync --force')}"
    wrong = "let no other program use it, look at `nvidia-smi -q -d ECC`, and try another GPU" if gpu else fix

    def matmul(name: str) -> Probe:
        arguments: Arguments = {"device": name, **sizes["matmul"]}
        return Probe(f"torch matmul ({name})", f"{_HERE}._torch:matmul", wrong, arguments)

    def attention(name: str) -> Probe:
        unset = "set train.attention to another kernel in your recipe until it is right"
        return Probe(f"attention {name}", f"{_HERE}._attention:kernel", unset, {"name": name, "device": device})

    kind = {"device": "cuda" if gpu else "cpu"}
    yield Probe("torch", f"{_HERE}._torch:devices", subject.run("doctor"), kind, for_each=matmul, gate=True)
    if gpu:
        yield Probe("Triton kernel", f"{_HERE}._triton:kernel", subject.run("doctor"), {"device": device})
    yield Probe("attention", f"{_HERE}._attention:kernels", fix, {"device": device}, for_each=attention)


def _libraries(subject: Subject) -> Iterator[Probe]:
    if not uses_gpu(subject):
        return
    fix = f"install exactly the lock: {subject.run('sync --force')}"
    for what, module, name in (
        ("bitsandbytes 4-bit", "bitsandbytes", "four_bit"),
        ("bitsandbytes 8-bit AdamW", "bitsandbytes", "eight_bit_adamw"),
        ("Liger cross entropy", "liger_kernel", "fused_cross_entropy"),
        ("Liger RMSNorm", "liger_kernel", "rms_norm"),
    ):
        if is_installed(subject, module):
            yield Probe(what, f"{_HERE}._libraries:{name}", fix, {"device": _device(subject)})


def _ceilings(subject: Subject, sizes: Mapping[str, Mapping[str, float]]) -> Iterator[Probe]:
    device = _device(subject)
    fix = "let no other program use the device, and measure again"
    for what, name in (
        ("memory bandwidth", "bandwidth"),
        ("matrix rate", "matrix_rate"),
        ("launch time", "launch_time"),
    ):
        yield Probe(what, f"{_HERE}._ceilings:{name}", fix, {"device": device, **sizes.get(name, {})})


def is_installed(subject: Subject, module: str) -> bool:
    """Whether a module would be found; it is not imported."""
    return importlib.machinery.PathFinder.find_spec(module, list(subject.search_path)) is not None
