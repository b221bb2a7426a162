"""doctor --deep: its command line, real proofs on the CPU, and a child that dies, hangs, fails or prints."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.ceilings import cpu_name, read_ceilings
from tanren.common.doctor import Finding, Subject, Verdict, run_doctor
from tanren.common.doctor import _examination as examination
from tanren.common.doctor._finding import worst
from tanren.common.doctor.deep import check_deep, named_tiers, with_tiers_last
from tanren.common.doctor.deep._all_reduce import run_ranks
from tanren.common.doctor.deep._kernels import check_kernels
from tanren.common.doctor.deep._probe import Probe
from tanren.common.doctor.deep._prove import as_time, prove
from tanren.common.errors import UserError

from .conftest import by_name

SMALL: Mapping[str, Mapping[str, float]] = {
    "matmul": {"size": 128},
    "bandwidth": {"gib": 0.03, "seconds": 0.1},
    "matrix_rate": {"size": 256, "seconds": 0.1},
}
PROBES = """\
import ctypes, os, signal, subprocess, sys, time
from tanren.common.doctor.deep._probe import Comparison, ProbeResult

def good(tag=""):
    return ProbeResult(f"process {os.getpid()} {tag}", 0.5, 0.002)

def compared(error, most):
    return ProbeResult("compared", comparisons=(Comparison("half", error, most),))

def names():
    return ProbeResult("two", names=("a", "b"))

def segfault():
    sys.stderr.write("about to read address 0\\n")
    ctypes.string_at(0)

def hang():
    subprocess.Popen(["sleep", "60"])
    print("waiting for nobody", flush=True)
    time.sleep(60)

def garbage():
    print('{"found": "a lie"}')
    os.write(1, b"\\xff\\xfe no newline at the end")
    return good()

def leave():
    if os.fork() == 0:
        time.sleep(30)
    os._exit(7)

def fail(message):
    raise RuntimeError(message)
"""
RANKS = """\
import os, sys, time

if os.environ["RANK"] == "0":
    time.sleep(60)
print("gpu:1:2 [1] NCCL WARN socket closed", flush=True)
sys.exit("it failed")
"""
Run = Callable[..., dict[str, Finding]]


@pytest.fixture
def subject(cpu_subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Return this process as the CPU environment; its children find the module `proofs`."""
    (tmp_path / "proofs.py").write_text(PROBES, encoding="utf-8")
    monkeypatch.setenv("TANREN_CACHE_DIR", str(tmp_path / "cache"))
    path = os.pathsep.join([str(tmp_path), cpu_subject.variables.get("PYTHONPATH", "")])
    return replace(cpu_subject, variables={**cpu_subject.variables, "PYTHONPATH": path})


@pytest.fixture
def run(subject: Subject) -> Run:
    """Return a function that proves what the module `proofs` holds, by name and arguments."""

    def run_probes(*probes: Probe) -> dict[str, Finding]:
        return by_name(finding for finding, _ in prove(subject, probes, {}))

    return run_probes


def probe(name: str, what: str = "", limit: float = 30.0, **arguments: float | str) -> Probe:
    return Probe(what or name, f"proofs:{name}", "look at proofs.py", arguments, limit)


def process_of(finding: Finding) -> str:
    return finding.found.split()[1]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("doctor", "doctor"),
        ("doctor --deep", "doctor --deep kernels"),
        ("doctor --deep --json", "doctor --json --deep kernels"),
        ("doctor --deep nccl vllm --no-gpu", "doctor --no-gpu --deep vllm nccl"),
        ("doctor --deep vllm --json --deep=nccl,vllm", "doctor --json --deep vllm nccl"),
        ("doctor --deep all", "doctor --deep kernels imports vllm nccl"),
        ("doctor --deep kernels my/recipe.toml", "doctor my/recipe.toml --deep kernels"),
        ("doctor recipe.toml --deep", "doctor recipe.toml --deep kernels"),
    ],
)
def test_deep_takes_any_number_of_tiers_and_leaves_other_words(given: str, read: str) -> None:
    assert with_tiers_last(given.split()) == read.split()


def test_an_unknown_tier_is_the_users_mistake_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--deep ncll: there is no such tier: expected .*; did you mean 'nccl'\?"):
        with_tiers_last(["doctor", "--deep", "kernels", "ncll"])
    with pytest.raises(UserError, match="vllm"):
        named_tiers(["flash"])


def test_good_proofs_share_one_process_whatever_is_printed(run: Run) -> None:
    rows = run(probe("good"), probe("garbage"), probe("good", "again"))
    assert worst(rows.values()) is Verdict.OK, rows
    assert len({process_of(row) for row in rows.values()}) == 1
    assert rows["good"].found.endswith("(first run 500 ms, then 2.0 ms)")


def test_a_proof_that_dies_by_a_signal_costs_its_own_row_alone(run: Run) -> None:
    rows = run(probe("good", "before"), probe("segfault"), probe("good", "after"))
    assert [rows[name].verdict for name in ("before", "segfault", "after")] == ["ok", "refused", "ok"]
    found = rows["segfault"].found
    assert found.startswith(f"ended by signal {int(signal.SIGSEGV)} (SIGSEGV); its last line: about to read address 0;")
    assert "about to read" in Path(found.rpartition("log: ")[2]).read_text(encoding="utf-8")
    assert process_of(rows["before"]) != process_of(rows["after"])


def test_a_proof_that_hangs_is_ended_with_what_it_started_and_the_next_goes_on(run: Run) -> None:
    begun = time.monotonic()
    rows = run(probe("hang", limit=1.0), probe("good"))
    assert time.monotonic() - begun < 20
    assert rows["hang"].verdict is Verdict.REFUSED
    assert rows["hang"].found.startswith("not done after 1 s; its last line: waiting for nobody; 1.")
    assert rows["good"].verdict is Verdict.OK


def test_a_process_that_lives_on_keeps_nobody_waiting(run: Run) -> None:
    rows = run(probe("leave", limit=20.0), probe("good"))
    assert rows["leave"].found.startswith("ended with exit code 7; ")
    assert rows["good"].verdict is Verdict.OK


def test_what_a_proof_raises_is_its_row_and_a_new_process_goes_on(run: Run) -> None:
    rows = run(probe("good", "before"), probe("fail", message="the matrix\nis singular"), probe("good", "after"))
    assert rows["fail"].found.startswith("RuntimeError: the matrix; ")
    assert rows["fail"].fix == "look at proofs.py"
    assert process_of(rows["before"]) != process_of(rows["after"])


def test_a_known_failure_brings_its_own_fix(run: Run) -> None:
    message = "CUDA error: no kernel image is available for execution on the device"
    row = run(probe("fail", message=message))["fail"]
    assert row.found.startswith(f"RuntimeError: {message} (a library has no kernels for this GPU); ")
    assert "TORCH_CUDA_ARCH_LIST" in row.fix


@pytest.mark.parametrize(
    ("error", "verdict"), [(0.01, Verdict.OK), (0.0101, Verdict.REFUSED), (float("nan"), Verdict.REFUSED)]
)
def test_an_error_over_its_limit_is_refused_and_nan_always(run: Run, error: float, verdict: Verdict) -> None:
    row = run(probe("compared", error=error, most=0.01))["compared"]
    assert (row.verdict, row.needed) == (verdict, "error at most: half 0.01")


def test_what_a_proof_names_is_proven_next_one_by_one(run: Run) -> None:
    listing = replace(probe("names"), for_each=lambda name: probe("good", f"kernel {name}", tag=name))
    assert list(run(listing, probe("good", "last"))) == ["names", "kernel a", "kernel b", "last"]


def test_after_a_gate_that_fails_nothing_is_tried(run: Run) -> None:
    rows = run(replace(probe("fail", message="no GPU"), gate=True), probe("good"), probe("garbage"))
    assert list(rows) == ["fail", "all after fail"]
    assert (rows["all after fail"].verdict, rows["all after fail"].found) == ("unknown", "not tried: good, garbage")


def test_leaving_early_ends_the_child(subject: Subject) -> None:
    rows = prove(subject, [probe("good"), probe("hang")], {})
    pid = int(process_of(next(rows)[0]))
    rows.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_tier_kernels_proves_this_cpu_and_writes_its_ceilings(subject: Subject) -> None:
    rows = by_name(check_kernels(subject, SMALL))
    assert worst(rows.values()) is Verdict.OK, rows
    kernels = [name.strip() for name in rows["attention"].found.partition(";")[0].split(",")]
    assert "sdpa" in kernels
    assert {"torch", "torch matmul (cpu)", *(f"attention {kernel}" for kernel in kernels)} <= rows.keys()
    assert "error: " in rows["torch matmul (cpu)"].found
    assert rows["GPU kernels"].found == "not tried: this is an environment without CUDA"
    ceilings = read_ceilings(cpu_name())
    assert ceilings is not None
    assert 1e8 < ceilings.bandwidth_bytes_per_s < 1e13
    assert 1e8 < ceilings.matrix_flops_per_s < 1e15
    assert 1e-8 < ceilings.launch_seconds < 1e-2
    assert (ceilings.driver, ceilings.dtype in {"float32", "bfloat16"}) == (subject.host.driver, True)


def test_two_processes_sum_exactly_where_there_is_no_gpu(subject: Subject) -> None:
    rows = by_name(check_deep(subject, ("vllm", "nccl")))
    assert worst(rows.values()) is Verdict.OK, rows
    assert rows["vLLM"].found == "not tried: without CUDA there is no vLLM"
    assert "2 processes, sums exact" in rows["gloo all-reduce"].found
    assert list(rows) == ["vLLM", "tier vllm", "gloo all-reduce", "tier nccl"]


def test_the_tiers_come_after_the_other_rows_and_not_in_the_wrong_environment(
    cpu_subject: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examination, "CONTENTS", {})
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)  # this process is in its environment
    run_doctor(expect_env=None, wants_gpu=False, as_json=False, tiers=("vllm",))
    assert "tier vllm" in capsys.readouterr().out
    assert run_doctor(expect_env="b300", wants_gpu=False, as_json=False, tiers=("vllm",)) == 1
    assert "tier vllm" not in capsys.readouterr().out


def test_a_gpu_that_torch_does_not_see_is_refused_once(subject: Subject, gpu_subject: Callable[[str], Subject]) -> None:
    gpu = replace(gpu_subject("train"), variables={**subject.variables, "CUDA_VISIBLE_DEVICES": ""})
    rows = by_name(check_deep(gpu, ("kernels",)))
    assert rows["torch"].verdict is Verdict.REFUSED
    assert "Triton kernel" in rows["all after torch"].found
    assert "ceilings" not in rows


def test_a_rank_that_fails_ends_the_others_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranks.py").write_text(RANKS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(RuntimeError) as raised:
        run_ranks("nccl", 2, 1.0, tmp_path, module="ranks")
    assert time.monotonic() - begun < 30
    assert str(raised.value) == "rank 1 of 2 ended with code 1: it failed; gpu:1:2 [1] NCCL WARN socket closed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(62.34, "62.3 s"), (312.0, "312 s"), (0.8124, "812 ms"), (0.00021, "210.0 us")],
)
def test_durations_have_a_unit_that_fits(seconds: float, text: str) -> None:
    assert as_time(seconds) == text
