"""The doctor on native code: headers, the stubs really compiled with this machine's compiler, and what may lack."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Subject, Verdict
from tanren.common.doctor._compilers import check_compilers
from tanren.common.doctor._finding import worst

from .conftest import by_name, script

Make = Callable[[str], Subject]
needs_compilers = pytest.mark.skipif(
    not (shutil.which("gcc") or shutil.which("clang")), reason="this machine has no C compiler"
)
CUDA_H = "typedef int CUresult;\n#define CUDA_SUCCESS 0\nCUresult cuDriverGetVersion(int *version);\n"


def triton(subject: Subject, cuda_h: str = CUDA_H) -> None:
    """Put a Triton with its headers into the environment's site-packages."""
    package = subject.site_packages[0] / "triton"
    (package / "backends" / "nvidia" / "include").mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "backends" / "nvidia" / "include" / "cuda.h").write_text(cuda_h, encoding="utf-8")


@needs_compilers
def test_the_stubs_are_compiled_linked_and_imported_with_this_machines_compilers(cpu_subject: Subject) -> None:
    rows = by_name(check_compilers(cpu_subject))
    assert worst(rows.values()) is Verdict.OK, rows
    assert cpu_subject.python in rows["extension in C"].found


@needs_compilers
def test_tritons_launcher_is_compiled_against_its_own_cuda_header(gpu_subject: Make) -> None:
    subject = replace(gpu_subject("train"), wants_gpu=False)
    triton(subject)
    rows = by_name(check_compilers(subject))
    assert rows["Triton's launcher"].verdict is Verdict.OK, rows
    # The compilers of the stand-in are this machine's: a warning, for what pixi brings is not used.
    assert rows["C compiler"].verdict is Verdict.WARNING


@needs_compilers
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's launcher is linked as on Linux")
def test_with_a_driver_the_launcher_is_linked_against_it_and_run(gpu_subject: Make, tmp_path: Path) -> None:
    source = tmp_path / "cuda.c"
    source.write_text("int cuDriverGetVersion(int *version) { *version = 12090; return 0; }\n", encoding="utf-8")
    built = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run([shutil.which("gcc") or "clang", source, *built], check=True)
    subject = gpu_subject("train")
    triton(subject)
    places = {"TRITON_LIBCUDA_PATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    finding = by_name(check_compilers(replace(subject, variables={**subject.variables, **places})))["Triton's launcher"]
    assert (finding.verdict, finding.found) == (Verdict.OK, "runs; the driver speaks CUDA 12.9")


@needs_compilers
def test_a_launcher_whose_header_is_broken_is_refused_with_the_compilers_words(gpu_subject: Make) -> None:
    subject = replace(gpu_subject("train"), wants_gpu=False)
    triton(subject, cuda_h="#error no CUDA here\n")
    finding = by_name(check_compilers(subject))["Triton's launcher"]
    assert finding.verdict is Verdict.REFUSED
    assert "no CUDA here" in finding.found


@needs_compilers
def test_an_environment_without_triton_is_refused(gpu_subject: Make) -> None:
    finding = by_name(check_compilers(gpu_subject("train")))["Triton's launcher"]
    assert (finding.verdict, finding.found) == (Verdict.REFUSED, "triton is not installed")


def test_a_missing_header_is_refused_with_pixi_and_a_warning_without(
    gpu_subject: Make, cpu_subject: Subject, tmp_path: Path
) -> None:
    pixi = by_name(check_compilers(replace(gpu_subject("train"), include=tmp_path)))
    assert pixi["Python.h"].verdict is Verdict.REFUSED
    assert pixi["Python.h"].fix == "./pixiw reinstall --locked -e train"
    venv = by_name(check_compilers(replace(cpu_subject, include=tmp_path)))
    assert (venv["Python.h"].verdict, venv["Python.h"].needed) == (Verdict.WARNING, "for torch.compile")
    assert "extension in C" not in venv


def test_a_missing_compiler_is_refused_with_pixi_and_a_warning_without(gpu_subject: Make, cpu_subject: Subject) -> None:
    for subject, verdict in ((gpu_subject("train"), Verdict.REFUSED), (cpu_subject, Verdict.WARNING)):
        bare = replace(subject, variables={**subject.variables, "PATH": "/nonexistent"}, prefix=subject.prefix)
        rows = by_name(check_compilers(bare))
        assert rows["C compiler"].verdict is rows["C++ compiler"].verdict is verdict
        assert rows["C compiler"].found == "none"
        assert "torch.compile" in rows["C compiler"].needed


def test_a_variable_that_names_no_program_is_not_passed_over(gpu_subject: Make) -> None:
    subject = gpu_subject("train")
    rows = by_name(check_compilers(replace(subject, variables={**subject.variables, "CC": "ccache gcc"})))
    assert rows["C compiler"].verdict is Verdict.REFUSED
    assert rows["C compiler"].found == "CC is 'ccache gcc', which is no program"


def test_the_environments_own_compiler_comes_before_the_machines_and_its_error_is_told(gpu_subject: Make) -> None:
    subject = gpu_subject("train")
    own = script(subject.prefix / "bin" / "gcc", "echo 'In file included from stub.c:2:' >&2\n"
                 "echo 'stub.c:2:10: fatal error: Python.h: No such file or directory' >&2\nexit 1")  # fmt: skip
    rows = by_name(check_compilers(subject))
    assert (rows["C compiler"].found, rows["C compiler"].verdict) == (str(own), Verdict.OK)
    assert rows["extension in C"].verdict is Verdict.REFUSED
    assert rows["extension in C"].found.endswith("fatal error: Python.h: No such file or directory")


@needs_compilers
def test_headers_of_another_python_are_told(cpu_subject: Subject) -> None:
    finding = by_name(check_compilers(replace(cpu_subject, python="3.9.1")))["extension in C"]
    assert finding.verdict is Verdict.WARNING
    assert f"Python.h is of Python {cpu_subject.python}, this is 3.9.1" == finding.found
