"""The doctor on Python packages: against the lock, and where Python finds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Finding, Subject, Verdict, read_subject
from tanren.common.doctor._finding import worst
from tanren.common.doctor._installed import read_distributions
from tanren.common.doctor._modules import check_modules
from tanren.common.doctor._packages import check_packages, read_lock
from tanren.common.errors import UserError

from .conftest import by_name

Make = Callable[[str], Subject]
DIGEST = "0" * 64
LOCK = f"""\
# made by hand
alpha==1.0 \\
    --hash=sha256:{DIGEST}
beta==2.0 ; python_full_version < '3' \\
    --hash=sha256:{DIGEST}
beta==3.0 ; python_full_version >= '3' \\
    --hash=sha256:{DIGEST}
only-windows==1 ; sys_platform == 'win32' \\
    --hash=sha256:{DIGEST}
Vision_Kit @ https://example.org/whl/vision_kit-0.26.0%2Bcu129-cp312-cp312-manylinux_2_28_x86_64.whl \\
    --hash=sha256:{DIGEST}
torch==2.13.0 \\
    --hash=sha256:{DIGEST}
"""
AS_LOCKED = {"alpha": "1.0", "beta": "3.0", "vision-kit": "0.26.0+cu129", "torch": "2.13.0+cpu"}


def install(folder: Path, packages: dict[str, str]) -> None:
    """Write what an installer leaves of a package."""
    for name, version in packages.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")


@pytest.fixture
def check(cpu_subject: Subject, tmp_path: Path) -> Callable[[dict[str, str]], list[Finding]]:
    """Return a check of installed packages against LOCK, in a venv."""

    def run(packages: dict[str, str]) -> list[Finding]:
        folder = tmp_path / "envs"
        folder.mkdir()
        (folder / "requirements.lock").write_text(LOCK, encoding="utf-8")
        (folder / "cuda-runtime.lock").write_text("nvidia-part==13.0\n", encoding="utf-8")
        install(tmp_path / "site-packages", packages)
        profile = replace(cpu_subject.profile, folder=folder)
        return list(check_packages(replace(cpu_subject, profile=profile, site_packages=(tmp_path / "site-packages",))))

    return run


Check = Callable[[dict[str, str]], list[Finding]]


def test_the_running_environment_is_its_lock() -> None:
    findings = list(check_packages(read_subject(None, wants_gpu=False)))
    assert worst(findings) is not Verdict.REFUSED, findings
    assert findings[0].found.startswith(f"{findings[0].needed.split()[1]} as locked, 0 not")


def test_exactly_the_lock_is_ok_with_ours_the_venvs_seeds_and_pytorchs_cpu_build(check: Check) -> None:
    [finding] = check({**AS_LOCKED, "tanren-common": "0.1.0", "pip": "25.0", "uv": "0.12.5"})
    assert (finding.verdict, finding.found) == (Verdict.OK, "4 as locked, 0 not, 0 extra")


@pytest.mark.parametrize(
    ("name", "version", "needed"),
    [("alpha", "0.9", "1.0"), ("beta", "2.0", "3.0"), ("vision-kit", "0.26.0", "0.26.0+cu129")],
)
def test_another_version_than_the_locks_is_refused(check: Check, name: str, version: str, needed: str) -> None:
    summary, finding = check({**AS_LOCKED, name: version})
    assert summary.verdict is Verdict.REFUSED
    assert (finding.what, finding.found, finding.needed) == (f"package {name}", version, needed)
    assert (finding.verdict, finding.fix) == (Verdict.REFUSED, "./pixiw run -e default sync --force")


def test_a_missing_package_is_refused_and_an_extra_one_is_a_warning_after_it(check: Check) -> None:
    packages = {**AS_LOCKED, "aardvark": "1.0"}
    del packages["alpha"]
    summary, missing, extra = check(packages)
    assert (summary.verdict, summary.found) == (Verdict.REFUSED, "3 as locked, 1 not, 1 extra")
    assert (missing.what, missing.found, missing.verdict) == ("package alpha", "missing", Verdict.REFUSED)
    assert (extra.what, extra.found, extra.verdict) == ("package aardvark", "1.0", Verdict.WARNING)


def test_only_the_first_ten_deviations_have_a_row(check: Check) -> None:
    findings = check({**AS_LOCKED, **{f"extra-{number:02}": "1" for number in range(12)}})
    assert len(findings) == 11
    assert findings[0].found == "4 as locked, 0 not, 12 extra"
    assert findings[0].verdict is Verdict.WARNING


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA packages are for Linux")
def test_the_ordinary_torch_needs_its_cuda_packages(check: Check) -> None:
    summary, missing = check({**AS_LOCKED, "torch": "2.13.0"})
    assert summary.found == "4 as locked, 1 not, 0 extra"
    assert (missing.what, missing.found) == ("package nvidia-part", "missing")


def test_a_package_installed_over_another_is_refused(check: Check, tmp_path: Path) -> None:
    install(tmp_path / "site-packages", {"alpha": "0.9"})
    finding = check(AS_LOCKED)[1]
    assert (finding.verdict, finding.found) == (Verdict.REFUSED, "0.9 and 1.0: two installations in one folder")


def test_pixis_environment_has_no_seeds_and_an_environment_without_lock_is_refused(
    gpu_subject: Make, tmp_path: Path
) -> None:
    subject = gpu_subject("train")
    subject = replace(subject, profile=replace(subject.profile, folder=tmp_path))
    [finding] = check_packages(subject)
    assert (finding.verdict, finding.found) == (Verdict.REFUSED, "not compared")
    (tmp_path / "requirements.lock").write_text("", encoding="utf-8")
    install(subject.site_packages[0], {"pip": "25.0"})
    assert [finding.what for finding in check_packages(subject)] == ["packages", "package pip"]


def test_a_line_that_is_no_requirement_is_named(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("alpha==1.0\n<<<<<<< HEAD\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"requirements.lock, line 2: '<<<<<<< HEAD'"):
        read_lock(tmp_path / "requirements.lock")


def test_a_package_whose_metadata_is_empty_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "alpha-1.0.dist-info").mkdir()
    (tmp_path / "alpha-1.0.dist-info" / "METADATA").write_text("", encoding="utf-8")
    assert [(one.name, one.version) for one in read_distributions([tmp_path])] == [("unreadable", "0")]


def modules(folder: Path, names: Iterable[str]) -> Path:
    """Write packages with nothing in them."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("", encoding="utf-8")
    return folder


def test_modules_found_once_in_the_environment_are_ok(gpu_subject: Make, tmp_path: Path) -> None:
    subject = gpu_subject("train")
    own = modules(subject.prefix / "site-packages", ["torch", "numpy"])
    (tmp_path / "elsewhere" / "torch").mkdir(parents=True)  # a folder without code gives way to the package
    subject = replace(subject, search_path=(str(tmp_path / "elsewhere"), str(own), str(own)))
    rows = by_name(check_modules(subject))
    assert worst(rows.values()) is Verdict.OK
    assert rows["module search"].found == "2 key modules, each found once"


def test_a_module_before_the_environments_is_refused_and_one_behind_it_a_warning(
    gpu_subject: Make, tmp_path: Path
) -> None:
    subject = gpu_subject("train")
    own = modules(subject.prefix / "site-packages", ["torch", "numpy"])
    before, behind = modules(tmp_path / "before", ["torch"]), modules(tmp_path / "behind", ["numpy"])
    rows = by_name(check_modules(replace(subject, search_path=(str(before), str(own), str(behind)))))
    assert rows["module torch"].verdict is Verdict.REFUSED
    assert str(before) in rows["module torch"].fix
    assert rows["module numpy"].verdict is Verdict.WARNING


@pytest.mark.parametrize(("set_", "verdict"), [("", Verdict.REFUSED), ("1", Verdict.OK)])
def test_packages_in_the_users_home_are_refused_unless_they_are_left_out(
    gpu_subject: Make, set_: str, verdict: Verdict
) -> None:
    subject = gpu_subject("train")
    variables = {**subject.variables, "PYTHONNOUSERSITE": set_}
    rows = by_name(check_modules(replace(subject, user_site="/home/smith/.local", variables=variables)))
    assert rows["user's site-packages"].verdict is verdict
