"""The doctor on where it runs: the environment's name and Python, the last sync, machine, glibc, driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Subject, Verdict, examine
from tanren.common.doctor import _examination as examination
from tanren.common.doctor._finding import Finding, worst
from tanren.common.doctor._host import check_driver, check_host
from tanren.common.doctor._place import STAMP, check_place, check_stamp

from .conftest import by_name

Make = Callable[[str], Subject]


def test_the_environment_that_was_meant_is_ok(gpu_subject: Make) -> None:
    subject = gpu_subject("train")
    (subject.prefix / STAMP).write_text("fingerprint\n", encoding="utf-8")
    assert (
        worst([*check_place(subject), *check_stamp(subject), *check_host(subject), *check_driver(subject)])
        is Verdict.OK
    )


def test_of_another_environment_only_the_machine_is_judged(gpu_subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Subject) -> list[Finding]:
        pytest.fail("the contents of another environment were looked at")

    monkeypatch.setattr(examination, "CONTENTS", {"Python packages": (forbidden,)})
    subject = gpu_subject("train")
    subject = replace(subject, variables={**subject.variables, "PIXI_ENVIRONMENT_NAME": "eval"})
    rows = by_name(examine(subject))
    assert rows["environment"].verdict is Verdict.REFUSED
    assert (rows["environment"].found, rows["environment"].needed) == ("eval", "train")
    assert rows["environment"].fix == "./pixiw run -e train doctor"
    assert rows["NVIDIA driver"].verdict is Verdict.OK
    assert rows["its contents"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("named", "verdict"), [(True, Verdict.REFUSED), (False, Verdict.WARNING)])
def test_a_start_outside_pixi_is_refused_only_where_an_environment_was_asked_for(
    cpu_subject: Subject, named: bool, verdict: Verdict
) -> None:
    variables = {key: value for key, value in cpu_subject.variables.items() if key != "PIXI_ENVIRONMENT_NAME"}
    rows = by_name(check_place(replace(cpu_subject, variables=variables, named=named)))
    assert rows["environment"].verdict is verdict


def test_a_python_that_is_not_the_active_environments_is_refused(gpu_subject: Make, tmp_path: Path) -> None:
    subject = gpu_subject("train")
    (tmp_path / "usr").mkdir()
    rows = by_name(check_place(replace(subject, prefix=tmp_path / "usr")))
    assert rows["environment"].verdict is Verdict.OK
    assert rows["this Python's folder"].verdict is Verdict.REFUSED


def test_a_venv_cannot_be_a_gpu_environment_and_a_pixi_folder_only_its_own(gpu_subject: Make, tmp_path: Path) -> None:
    subject = gpu_subject("train")
    venv = replace(subject, prefix=tmp_path, variables={**subject.variables, "VIRTUAL_ENV": str(tmp_path)})
    assert by_name(check_place(venv))["this Python's folder"].verdict is Verdict.REFUSED
    other = replace(subject, environment="eval", variables={**subject.variables, "PIXI_ENVIRONMENT_NAME": "eval"})
    assert by_name(check_place(other))["this Python's folder"].verdict is Verdict.REFUSED


def test_an_environment_whose_sync_did_not_end_is_refused(gpu_subject: Make) -> None:
    [finding] = check_stamp(gpu_subject("train"))
    assert (finding.verdict, finding.fix) == (Verdict.REFUSED, "./pixiw run -e train sync")


def test_a_wrong_machine_is_refused_and_told_its_own_environments(gpu_subject: Make) -> None:
    subject = gpu_subject("b300")
    rows = by_name(check_host(replace(subject, host=replace(subject.host, machine="aarch64"))))
    assert rows["machine"].verdict is Verdict.REFUSED
    assert (rows["machine"].found, rows["machine"].needed) == ("aarch64", "x86_64")
    assert rows["machine"].fix.endswith(": gh200, default")
    assert rows["glibc"].verdict is Verdict.OK
    assert worst(check_driver(subject)) is Verdict.OK


@pytest.mark.parametrize(("glibc", "verdict"), [("2.28", Verdict.REFUSED), ("", Verdict.UNKNOWN), ("2.31", Verdict.OK)])
def test_glibc_is_judged_and_an_unknown_one_said(gpu_subject: Make, glibc: str, verdict: Verdict) -> None:
    subject = gpu_subject("train")
    assert by_name(check_host(replace(subject, host=replace(subject.host, glibc=glibc))))["glibc"].verdict is verdict


@pytest.mark.parametrize(
    ("environment", "driver", "card", "wants_gpu", "verdict"),
    [
        ("train", "535.183.01", "NVIDIA H100 80GB HBM3", True, Verdict.REFUSED),
        ("train", "570.124.06", "NVIDIA H100 80GB HBM3", True, Verdict.OK),
        ("train", "535.183.01", "NVIDIA H100 80GB HBM3", False, Verdict.WARNING),
        ("b300", "570.124.06", "NVIDIA A100-SXM4-80GB", True, Verdict.OK),  # cuda-compat is for data-centre GPUs
        ("b300", "570.124.06", "NVIDIA GeForce RTX 5080", True, Verdict.REFUSED),
        ("train", "", "", True, Verdict.REFUSED),
        ("train", "", "", False, Verdict.OK),
    ],
)
def test_the_driver_is_judged(
    gpu_subject: Make, environment: str, driver: str, card: str, wants_gpu: bool, verdict: Verdict
) -> None:
    subject = gpu_subject(environment)
    host = replace(subject.host, driver=driver, gpu_names=(card,) if card else ())
    [finding] = check_driver(replace(subject, host=host, wants_gpu=wants_gpu))
    assert finding.verdict is verdict, finding
    assert ("cuda-compat" in finding.found) == (environment == "b300" and verdict is Verdict.OK)


def test_the_fix_of_an_old_driver_names_the_environment_that_needs_no_newer_one(gpu_subject: Make) -> None:
    subject = gpu_subject("b300")
    host = replace(subject.host, driver="570.124.06", gpu_names=("NVIDIA GeForce RTX 5080",))
    [finding] = check_driver(replace(subject, host=host))
    assert finding.fix.endswith(": train, default")


def test_the_cpu_environment_asks_for_no_driver(cpu_subject: Subject) -> None:
    assert list(check_driver(cpu_subject)) == []
