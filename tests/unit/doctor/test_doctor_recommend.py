"""tanren doctor --recommend: the environment for each recorded machine, and why not the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tanren.common.doctor import _recommend, run_recommend
from tanren.common.doctor._nvml import Gpu, Reading
from tanren.common.doctor._recommend import Recommendation, machine_of, recommend
from tanren.common.environments import Host

from .conftest import ROOT
from .recorded_gpus import (
    A100,
    B200,
    B200_MIG,
    B300,
    GB10,
    GH200,
    H100,
    H200,
    RTX_5080,
    T4,
    gpu,
    host,
    reading,
)

V100 = gpu("Tesla V100-SXM2-16GB", "7.0", 16.0)
RUBIN = gpu("NVIDIA R100", "13.0", 288.0)


def answer(
    branch: str, *gpus: Gpu, machine: str = "x86_64", variables: Mapping[str, str] | None = None
) -> Recommendation:
    """Return what is recommended for a machine with these GPUs."""
    of = reading(branch, *gpus)
    return recommend(ROOT, machine_of(host(of, machine), of, variables or {}))


@pytest.mark.parametrize(
    ("branch", "gpus", "machine", "environment"),
    [
        *[("580", (one,), "x86_64", "b300") for one in (T4, A100, RTX_5080, H100, H200, B200, B200_MIG, B300)],
        *[("570", (one,), "x86_64", "train") for one in (T4, A100, RTX_5080, H100, H200, B200)],
        ("575", (B300,), "x86_64", "train"),
        ("580", (A100, replace(RTX_5080, index=1)), "x86_64", "b300"),
        ("570", (A100, replace(RTX_5080, index=1)), "x86_64", "train"),
        ("535", (A100,), "x86_64", "b300"),  # by cuda-compat alone
        ("535", (RTX_5080,), "x86_64", ""),
        ("535", (A100, replace(RTX_5080, index=1)), "x86_64", ""),
        ("580", (GH200,), "aarch64", "gh200"),
        ("580", (GB10,), "aarch64", "gh200"),
        ("570", (GH200,), "aarch64", ""),
        ("580", (V100,), "x86_64", ""),
        ("580", (V100, replace(H100, index=1)), "x86_64", ""),
        ("580", (RUBIN,), "x86_64", "b300"),
    ],
)
def test_each_machine_gets_the_newest_toolkit_that_fits(
    branch: str, gpus: tuple[Gpu, ...], machine: str, environment: str
) -> None:
    found = answer(branch, *gpus, machine=machine)
    assert found.environment == environment, found
    assert found.command == (f"./pixiw run -e {environment} doctor" if environment else "")
    assert {other.environment for other in found.others} == {"b300", "default", "gh200", "train"} - {environment}


def test_the_answer_says_why_and_what_of_the_others() -> None:
    found = answer("570", H100, replace(H100, index=1))
    assert found.machine == "x86_64, glibc 2.35, driver 570.124.06, 2 x NVIDIA H100 80GB HBM3 (9.0)"
    assert found.why == (
        "driver 570.124.06 runs CUDA 12.9: the newest toolkit that fits, and it is made for compute capability 9.0"
    )
    others = {other.environment: (other.verdict, other.because) for other in found.others}
    assert others["b300"] == ("would do", ("by cuda-compat, beside an older driver",))
    assert others["gh200"][0] == others["default"][0] == "no"
    assert others["gh200"][1][0] == "it is for aarch64, and this machine is x86_64"
    assert "by cuda-compat" in answer("535", A100).why
    assert "13.0 is in no table yet: judged by rule" in answer("580", RUBIN).why


@pytest.mark.parametrize(
    ("branch", "one", "machine", "told"),
    [
        ("535", RTX_5080, "x86_64", "install NVIDIA driver 570.26 or newer: then train fits"),
        ("570", GH200, "aarch64", "install NVIDIA driver 580.65.06 or newer: then gh200 fits"),
        ("580", V100, "x86_64", "use another machine"),
    ],
)
def test_where_nothing_fits_it_says_what_would_help(branch: str, one: Gpu, machine: str, told: str) -> None:
    assert answer(branch, one, machine=machine).why.startswith(told)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
def test_without_a_gpu_it_is_the_cpu_environment(machine: str) -> None:
    bare = machine_of(Host(machine, "", "", ()), Reading(fault="NVML: Shared Library Not Found"), {})
    found = recommend(ROOT, bare)
    assert found.environment == "default"
    assert found.machine == f"{machine}, no GPU (NVML: Shared Library Not Found)"
    assert {other.verdict for other in found.others} == {"no"}


def test_gpus_that_a_variable_hides_do_not_count_and_are_mentioned() -> None:
    found = answer("580", V100, replace(H100, index=1), variables={"CUDA_VISIBLE_DEVICES": "1"})
    assert found.environment == "b300"
    assert found.machine.endswith("1 x NVIDIA H100 80GB HBM3 (9.0) (1 hidden by CUDA_VISIBLE_DEVICES)")
    hidden = answer("580", H100, variables={"CUDA_VISIBLE_DEVICES": ""})
    assert (hidden.environment, "1 hidden by" in hidden.machine) == ("default", True)


def test_with_a_driver_but_without_nvml_the_driver_alone_decides() -> None:
    said = Reading(fault="the Python package nvidia-ml-py is not installed")
    machine = machine_of(Host("x86_64", "2.35", "570.124.06", ("NVIDIA H100 80GB HBM3",)), said, {})
    found = recommend(ROOT, machine)
    assert found.environment == "train"
    assert found.why.endswith("the GPUs themselves could not be judged")
    assert "GPUs not read (the Python package nvidia-ml-py is not installed)" in found.machine
    old = machine_of(Host("x86_64", "2.35", "535.183.01", ("NVIDIA GeForce RTX 4090",)), said, {})
    assert recommend(ROOT, old).why == "install NVIDIA driver 570.26 or newer: then train fits"


@pytest.mark.parametrize(("one", "code"), [(H100, 0), (V100, 1)])
def test_the_exit_code_says_whether_one_fits_and_json_is_alone_on_standard_output(
    one: Gpu, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    of = reading("580", one)
    monkeypatch.setattr(_recommend, "read_machine", lambda _: machine_of(host(of), of, {}))
    assert run_recommend(expect_env=None, wants_gpu=True, as_json=True) == code
    printed = capsys.readouterr()
    assert json.loads(printed.out)["environment"] == ("" if code else "b300")
    assert ("no environment fits" in printed.err) == bool(code)
    assert run_recommend(expect_env=None, wants_gpu=True, as_json=False) == code
    assert ("./pixiw run -e b300 doctor" in capsys.readouterr().out) != bool(code)


def test_the_command_works_in_any_environment_quickly_and_without_torch(command: Callable[..., Any]) -> None:
    done = command("tanren.common.cli", "doctor", "--recommend", "--no-gpu", "--json", PIXI_ENVIRONMENT_NAME="no-such")
    assert done.code == 0, done.err
    assert json.loads(done.out)["command"] == "./pixiw run -e default doctor"
    assert "recommended: default" in done.err
    assert done.heavy == ""
    named = command("tanren.common.cli", "doctor", "--recommend", "--expect-env", "train")
    assert (named.code, named.out) == (2, "")
    assert "leave --expect-env out" in named.err
