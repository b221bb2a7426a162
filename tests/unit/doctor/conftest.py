"""Subjects to examine: a whole GPU environment made of shell scripts, and this process's own CPU environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Finding, Subject
from tanren.common.doctor._nvml import Gpu, Reading
from tanren.common.doctor._subject import read_subject
from tanren.common.environments import Host, profile_of, read_architectures

ROOT = Path(__file__).parents[3]

NVCC = "Cuda compilation tools, release {version}, V{version}.86"
PTXAS = "ptxas: NVIDIA (R) Ptx optimizing assembler\nCuda compilation tools, release {version}, V{version}.86"
# As `ptxas --help` writes them: in quotes, wrapped, between other names, and once in the prose.
PTXAS_HELP = """\
--gpu-name <gpu name>                               (-arch)
        Specify name of NVIDIA GPU to generate code for. PTX for .target sm_XY can be compiled to all
        Allowed values for this option:  'compute_100','compute_100a','compute_103',
        'lto_90a',{names}
        Default value:  'sm_75'.
"""
ARCHITECTURES = ("75", "80", "86", "89", "90", "90a", "100", "100a", "103", "103a", "120", "121")


def script(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def cuda_tool(path: Path, version: str, architectures: Iterable[str] = ARCHITECTURES) -> Path:
    """Write a stand-in for nvcc or ptxas."""
    head = (NVCC if path.name == "nvcc" else PTXAS).format(version=version)
    names = ",\n        ".join(f"'sm_{name}'" for name in architectures)
    answers = f"cat <<'E'\n{head}\nE\n;;\n--help) cat <<'E'\n{PTXAS_HELP.format(names=names)}\nE\n;;"
    return script(path, f'case "$1" in\n--version) {answers}\nesac')


@pytest.fixture
def cpu_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Return this process as the CPU environment without pixi, whatever environment the tests run in."""
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.setenv("PIXI_ENVIRONMENT_NAME", "default")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return replace(read_subject(None, wants_gpu=True), prefix=tmp_path / "venv")


@pytest.fixture
def gpu_subject(tmp_path: Path, cpu_subject: Subject) -> Callable[[str], Subject]:
    """Return a maker of subjects: a pixi environment with its toolkit, on an x86-64 machine with an H100."""

    def make(environment: str = "train") -> Subject:
        profile = profile_of(ROOT, environment)
        assert profile.cuda is not None
        prefix = tmp_path / "envs" / environment
        (prefix / "conda-meta").mkdir(parents=True)
        cuda_tool(prefix / "bin" / "nvcc", profile.cuda.toolkit)
        ptxas = cuda_tool(prefix / "bin" / "ptxas", profile.cuda.toolkit)
        return Subject(
            root=ROOT,
            environment=environment,
            profile=profile,
            architectures=read_architectures(ROOT),
            host=Host(profile.machines[0], "2.39", "580.95.05", ("NVIDIA H100 80GB HBM3",)),
            reading=Reading(
                "580.95.05", "13.0", (Gpu(0, "GPU-4b0c", "NVIDIA H100 80GB HBM3", "9.0", 79.6, 0.0, 79.6),)
            ),
            wants_gpu=True,
            named=True,
            variables={
                "PATH": cpu_subject.variables["PATH"],
                "PIXI_ENVIRONMENT_NAME": environment,
                "CONDA_PREFIX": str(prefix),
                "CUDA_HOME": str(prefix),
                "TRITON_PTXAS_PATH": str(ptxas),
                "TRITON_PTXAS_BLACKWELL_PATH": str(ptxas),
            },
            prefix=prefix,
            python=cpu_subject.python,
            include=cpu_subject.include,
            site_packages=(prefix / "site-packages",),
            search_path=(str(prefix / "site-packages"),),
            user_site="",
        )

    return make


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Return the findings by what was looked at; each only once."""
    rows = list(findings)
    table = {finding.what: finding for finding in rows}
    assert len(table) == len(rows)
    return table
