"""The doctor on LD_LIBRARY_PATH: other copies of CUDA's libraries, stubs, and drivers that are not the machine's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Finding, Subject, Verdict
from tanren.common.doctor._libraries import check_libraries

Make = Callable[[str], Subject]


@pytest.fixture
def check(gpu_subject: Make) -> Callable[..., list[Finding]]:
    """Return a check of an environment with the wheels' libraries and these folders in LD_LIBRARY_PATH."""
    subject = gpu_subject("b300")
    wheels = subject.site_packages[0] / "nvidia"
    library(wheels / "cu13" / "lib" / "libcudart.so.13")
    library(wheels / "cudnn" / "lib" / "libcudnn.so.9")
    library(wheels / "cudnn" / "lib" / "libcudnn_graph.so.9")

    def run(*folders: Path) -> list[Finding]:
        path = ":".join(map(str, folders))
        return list(check_libraries(replace(subject, variables={**subject.variables, "LD_LIBRARY_PATH": path})))

    return run


Check = Callable[..., list[Finding]]


def library(path: Path) -> Path:
    """Write a library with nothing in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF")
    return path


def test_without_the_variable_and_with_folders_of_other_things_all_is_well(check: Check, tmp_path: Path) -> None:
    assert [finding.verdict for finding in check()] == [Verdict.OK]
    library(tmp_path / "mpi" / "libmpi.so.40")
    library(tmp_path / "cuda-12" / "libcudart.so.12")  # another major version: nobody here asks for it
    [finding] = check(tmp_path / "mpi", tmp_path / "cuda-12", tmp_path / "not-there")
    assert (finding.verdict, finding.found) == (Verdict.OK, "3 folders, none with another copy")


def test_a_second_runtime_is_a_warning_that_names_both(check: Check, tmp_path: Path) -> None:
    library(tmp_path / "cuda" / "lib64" / "libcudart.so.13")
    [finding] = check(tmp_path / "cuda" / "lib64")
    assert finding.verdict is Verdict.WARNING
    assert str(tmp_path / "cuda" / "lib64") in finding.found
    assert "nvidia/cu13/lib" in finding.found
    assert str(tmp_path / "cuda" / "lib64") in finding.fix


def test_parts_of_another_cudnn_are_refused(check: Check, tmp_path: Path) -> None:
    library(tmp_path / "old" / "libcudnn_graph.so.9")
    library(tmp_path / "old" / "libcudart.so.13")
    [finding] = check(tmp_path / "old")
    assert (finding.what, finding.verdict) == ("second cuDNN", Verdict.REFUSED)
    assert "libcudnn_graph.so.9, libcudart.so.13" in finding.found


def test_a_link_to_the_wheels_own_library_is_no_second_copy(check: Check, tmp_path: Path, gpu_subject: Make) -> None:
    own = tmp_path / "envs" / "b300" / "site-packages" / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "libcudnn.so.9").symlink_to(own)
    assert [finding.verdict for finding in check(tmp_path / "links", own.parent)] == [Verdict.OK]


def test_a_stub_of_the_driver_is_refused(check: Check, tmp_path: Path) -> None:
    library(tmp_path / "cuda" / "lib64" / "stubs" / "libcuda.so")
    [finding] = check(tmp_path / "cuda" / "lib64" / "stubs")
    assert (finding.what, finding.verdict) == ("libcuda.so.1", Verdict.REFUSED)


@pytest.mark.parametrize(("version", "verdict"), [("580.95.05", Verdict.OK), ("550.54.14", Verdict.WARNING)])
def test_another_drivers_libcuda_is_a_warning(check: Check, tmp_path: Path, version: str, verdict: Verdict) -> None:
    real = library(tmp_path / "nvidia" / f"libcuda.so.{version}")
    (real.parent / "libcuda.so.1").symlink_to(real.name)
    assert [finding.verdict for finding in check(real.parent)] == [verdict]


def test_the_environments_own_cuda_compat_is_meant_to_be_there(check: Check, tmp_path: Path) -> None:
    real = library(tmp_path / "envs" / "b300" / "cuda-compat" / "libcuda.so.580.65.06")
    (real.parent / "libcuda.so.1").symlink_to(real.name)
    assert [finding.verdict for finding in check(real.parent)] == [Verdict.OK]


def test_the_cpu_environment_loads_none_of_them(cpu_subject: Subject) -> None:
    assert list(check_libraries(cpu_subject)) == []
