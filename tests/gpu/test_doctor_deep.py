"""doctor --deep on a CUDA machine: every proof passes, and one that breaks the CUDA context costs its own row alone."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.ceilings import read_ceilings
from tanren.common.doctor import Finding, Subject, Verdict, read_subject
from tanren.common.doctor.deep import check_deep, measure_ceilings
from tanren.common.doctor.deep._probe import Probe
from tanren.common.doctor.deep._prove import prove

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

ENVIRONMENTS = {"12.9": "train", "13.0": "b300"}
"""By the CUDA of their torch."""
BREAKS = """\
import torch
from tanren.common.doctor.deep._probe import ProbeResult

def out_of_range():
    table = torch.zeros(4, device="cuda")
    print(table[torch.tensor([1 << 20], device="cuda")])
    return ProbeResult("no fault")
"""


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Return this process as the environment of its CUDA, whether pixi made it or not."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("TANREN_CACHE_DIR", str(tmp_path / "cache"))
    return read_subject(ENVIRONMENTS.get(torch.version.cuda, "train"), wants_gpu=True)


def rows_of(findings: Iterator[Finding]) -> dict[str, Finding]:
    rows = {}
    for finding in findings:
        print(finding.verdict, finding.what, finding.found, sep="  ", flush=True)  # noqa: T201
        rows[finding.what] = finding
        if finding.verdict is Verdict.REFUSED and "log: " in finding.found:
            print(Path(finding.found.rpartition("log: ")[2]).read_text(encoding="utf-8"))  # noqa: T201
    return rows


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def test_every_kernel_is_right_and_the_ceilings_are_written(subject: Subject) -> None:
    rows = rows_of(check_deep(subject, ("kernels",)))
    assert {row.what: row.found for row in rows.values() if row.verdict is not Verdict.OK} == {}
    expected = {"torch", "torch matmul (cuda:0)", "Triton kernel", "attention sdpa", "ceilings"}
    expected |= {"bitsandbytes 4-bit", "bitsandbytes 8-bit AdamW"} if installed("bitsandbytes") else set()
    expected |= {"Liger cross entropy", "Liger RMSNorm"} if installed("liger_kernel") else set()
    assert expected <= rows.keys()
    major, minor = torch.cuda.get_device_capability(0)
    assert f"sm_{major}{minor} by ptxas " in rows["Triton kernel"].found
    ceilings = read_ceilings(torch.cuda.get_device_name(0))
    assert ceilings is not None
    assert 1e11 < ceilings.bandwidth_bytes_per_s < 2e13
    assert 1e13 < ceilings.matrix_flops_per_s < 1e16
    assert 1e-7 < ceilings.launch_seconds < 1e-4


def test_two_measurements_of_a_gpu_agree(subject: Subject) -> None:
    one, two = measure_ceilings("cuda:0"), measure_ceilings("cuda:0")
    assert one.bandwidth_bytes_per_s == pytest.approx(two.bandwidth_bytes_per_s, rel=0.1)
    assert one.matrix_flops_per_s == pytest.approx(two.matrix_flops_per_s, rel=0.1)


def test_the_engine_says_what_transformers_says(subject: Subject) -> None:
    if not installed("vllm"):
        pytest.skip("vLLM is not installed")
    rows = rows_of(check_deep(subject, ("vllm",)))
    assert rows["vLLM"].verdict is Verdict.OK, rows["vLLM"]


def test_all_gpus_sum_exactly(subject: Subject) -> None:
    rows = rows_of(check_deep(subject, ("nccl",)))
    assert rows["NCCL all-reduce"].verdict is Verdict.OK, rows["NCCL all-reduce"]
    several = torch.cuda.device_count() > 1
    assert ("sums exact" if several else "one GPU: nothing to prove") in rows["NCCL all-reduce"].found


def test_a_broken_cuda_context_costs_one_row(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), subject.variables.get("PYTHONPATH", "")])
    subject = replace(subject, variables={**subject.variables, "PYTHONPATH": path})
    matmul = Probe("after", "tanren.common.doctor.deep._torch:matmul", "-", {"device": "cuda:0", "size": 256})
    probes = [Probe("broken", "breaks:out_of_range", "-"), matmul]
    rows = rows_of(finding for finding, _ in prove(subject, probes, {}))
    assert rows["broken"].verdict is Verdict.REFUSED
    assert "a kernel met an index out of range" in rows["broken"].found
    assert rows["after"].verdict is Verdict.OK
