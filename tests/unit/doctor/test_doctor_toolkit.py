"""The doctor on the CUDA toolkit: stand-ins for nvcc and ptxas in a stand-in for the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Subject, Verdict
from tanren.common.doctor._finding import worst
from tanren.common.doctor._toolkit import TRITON_VARIABLES, check_toolkit, known_architectures

from .conftest import ARCHITECTURES, by_name, cuda_tool, script

Make = Callable[[str], Subject]

# The end of the list as ptxas 12.8.93 prints it: it knows sm_100 and no sm_103.
HELP_12_8 = """\
        'lto_80','lto_86','lto_87','lto_89','lto_90','lto_90a','sm_100','sm_100a',
        'sm_101','sm_101a','sm_120','sm_120a','sm_50','sm_52','sm_53','sm_60','sm_61',
        'sm_62','sm_70','sm_72','sm_75','sm_80','sm_86','sm_87','sm_89','sm_90',
        'sm_90a'.
"""


@pytest.mark.parametrize("environment", ["train", "eval", "b300", "b300-cuda13"])
def test_the_environments_own_toolkit_is_ok(gpu_subject: Make, environment: str) -> None:
    rows = by_name(check_toolkit(gpu_subject(environment)))
    assert worst(rows.values()) is Verdict.OK, rows
    assert set(TRITON_VARIABLES) < rows.keys()


def test_the_cpu_environment_has_no_toolkit_to_look_at(cpu_subject: Subject) -> None:
    assert list(check_toolkit(cpu_subject)) == []


@pytest.mark.parametrize("tool", ["nvcc", "ptxas"])
def test_a_tool_of_another_toolkit_is_refused(gpu_subject: Make, tool: str) -> None:
    subject = gpu_subject("train")
    cuda_tool(subject.prefix / "bin" / tool, "12.8")
    finding = by_name(check_toolkit(subject))[tool]
    assert (finding.verdict, finding.found, finding.needed) == (Verdict.REFUSED, "12.8", "12.9")
    assert finding.fix == "./pixiw reinstall --locked -e train"


def test_a_tool_that_is_missing_or_does_not_run_is_refused_with_the_reason(gpu_subject: Make) -> None:
    subject = gpu_subject("train")
    nvcc, ptxas = (subject.prefix / "bin" / tool for tool in ("nvcc", "ptxas"))
    nvcc.unlink()
    script(ptxas, "echo 'error while loading shared libraries: libdl.so.2' >&2; exit 127")
    rows = by_name(check_toolkit(subject))
    assert rows["nvcc"].found == f"{nvcc}: no such file"
    assert rows["ptxas"].found.endswith("libdl.so.2")
    assert rows["ptxas architectures"].verdict is Verdict.REFUSED


def test_a_ptxas_that_does_not_know_a_promised_gpu_is_refused_by_its_name(gpu_subject: Make) -> None:
    subject = gpu_subject("train")
    cuda_tool(subject.prefix / "bin" / "ptxas", "12.9", [a for a in ARCHITECTURES if not a.startswith("103")])
    finding = by_name(check_toolkit(subject))["ptxas architectures"]
    assert finding.verdict is Verdict.REFUSED
    assert finding.found == "8 of 9; it does not know sm_103"


def test_the_architectures_are_read_from_what_ptxas_really_prints() -> None:
    known = known_architectures(HELP_12_8)
    assert {"sm_75", "sm_90a", "sm_100", "sm_120"} < known
    assert not known & {"sm_103", "sm_10", "sm_XY"}
    assert len(known) == 21


@pytest.mark.parametrize("variable", TRITON_VARIABLES)
def test_a_path_of_triton_is_refused_unless_it_is_the_environments_own_ptxas_and_runs(
    gpu_subject: Make, tmp_path: Path, variable: str
) -> None:
    subject = gpu_subject("train")
    (not_executable := subject.prefix / "ptxas").write_text("", encoding="utf-8")
    foreign = cuda_tool(tmp_path / "usr" / "ptxas", "12.9")
    cases = {
        "": "not set",
        str(tmp_path / "nowhere"): "no such file: Triton takes its own without a word",
        str(not_executable): "not executable",
        str(foreign): "not the environment's own",
    }
    for value, told in cases.items():
        changed = replace(subject, variables={**subject.variables, variable: value})
        finding = by_name(check_toolkit(changed))[variable]
        assert finding.verdict is Verdict.REFUSED
        assert told in finding.found


def test_a_ptxas_that_is_a_link_into_the_package_cache_is_the_environments_own(
    gpu_subject: Make, tmp_path: Path
) -> None:
    subject = gpu_subject("train")
    (ptxas := subject.prefix / "bin" / "ptxas").unlink()
    ptxas.symlink_to(cuda_tool(tmp_path / "cache" / "ptxas", "12.9"))
    assert worst(check_toolkit(subject)) is Verdict.OK


@pytest.mark.parametrize("value", ["", "/usr/local/cuda", "{prefix}/nowhere"])
def test_a_cuda_home_that_is_not_the_environments_is_refused(gpu_subject: Make, value: str) -> None:
    subject = gpu_subject("train")
    variables = {**subject.variables, "CUDA_HOME": value.format(prefix=subject.prefix)}
    finding = by_name(check_toolkit(replace(subject, variables=variables)))["CUDA_HOME"]
    assert finding.verdict is Verdict.REFUSED
    assert "./pixiw run -e train doctor" in finding.fix
