"""envs/activate.sh: what a GPU environment decides, and when cuda-compat stands in for an older driver."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tanren.common.environments import Host, is_data_center, read_architectures, read_profiles, refusals, version_key

from .conftest import ROOT

VERSION = "NVRM version: NVIDIA UNIX {kind}  {driver}  Release Build  (build@host)  Thu\nGCC version:  gcc 12\n"
PROPRIETARY, OPEN = "x86_64 Kernel Module", "Open Kernel Module for x86_64"


class Machine:
    """A folder that stands for an activated prefix, and one for /proc/driver/nvidia."""

    def __init__(self, root: Path) -> None:
        self.prefix, self.proc = root / "env with space", root / "proc"
        (self.prefix / "targets" / "x86_64-linux" / "include").mkdir(parents=True)
        (self.prefix / "cuda-compat").mkdir()
        (self.prefix / "cuda-compat" / "libcuda.so.580.82.07").touch()

    def gpus(self, driver: str, *names: str, kind: str = OPEN) -> None:
        """Puts a driver and cards into the machine."""
        for number, name in enumerate(names):
            card = self.proc / "gpus" / f"0000:{number:02}:00.0"
            card.mkdir(parents=True)
            (card / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 16\n")
        self.proc.mkdir(exist_ok=True)
        (self.proc / "version").write_text(VERSION.format(kind=kind, driver=driver))

    def activate(self, shell: str, **variables: str) -> tuple[dict[str, str], str]:
        """The variables after activation, and what was said."""
        env = {
            "PATH": os.environ["PATH"],
            "CONDA_PREFIX": str(self.prefix),
            "TANREN_PROC_NVIDIA": str(self.proc),
            **variables,
        }
        script = f". '{ROOT}/envs/activate.sh' && env -0"
        done = subprocess.run([shell, "-euc", script], env=env, capture_output=True, text=True, check=True)
        return dict(item.partition("=")[::2] for item in done.stdout.split("\0") if item), done.stderr


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if not shutil.which(found):
        pytest.skip(f"there is no {found}")
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_environments_own_toolkit_is_what_compilers_find(machine: Machine, shell: str) -> None:
    found, said = machine.activate(shell, CPATH="/mine")
    prefix = str(machine.prefix)
    assert found["CUDA_HOME"] == prefix
    assert found["TRITON_PTXAS_PATH"] == found["TRITON_PTXAS_BLACKWELL_PATH"] == f"{prefix}/bin/ptxas"
    assert found["CPATH"].split(":")[0] == f"{prefix}/targets/x86_64-linux/include"
    assert found["CPATH"].endswith(":/mine")
    assert "LD_LIBRARY_PATH" not in found
    assert said == ""
    assert not [name for name in found if name.startswith("_tanren")]


@pytest.mark.parametrize("kind", [PROPRIETARY, OPEN])
def test_cuda_compat_stands_in_for_an_older_driver_of_a_data_centre_gpu(
    machine: Machine, shell: str, kind: str
) -> None:
    machine.gpus("570.133.20", "NVIDIA B200", "NVIDIA B200", kind=kind)
    found, said = machine.activate(shell, LD_LIBRARY_PATH="/mine")
    assert found["LD_LIBRARY_PATH"] == f"{machine.prefix}/cuda-compat:/mine"
    assert (
        said.strip()
        == "tanren: driver 570.133.20 is older than this environment's CUDA: cuda-compat 580.82.07 stands in"
    )


@pytest.mark.parametrize(
    ("driver", "cards"),
    [
        ("580.65.06", ("NVIDIA B200",)),
        ("610.43.02", ("NVIDIA H100 80GB HBM3",)),
        ("570.133.20", ("NVIDIA GeForce RTX 5080",)),
        ("570.133.20", ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition",)),
        ("570.133.20", ("NVIDIA H100 PCIe", "NVIDIA GeForce RTX 4090")),
        ("570.133.20", ()),
    ],
)
def test_cuda_compat_stays_out_everywhere_else(
    machine: Machine, shell: str, driver: str, cards: tuple[str, ...]
) -> None:
    machine.gpus(driver, *cards)
    found, said = machine.activate(shell)
    assert "LD_LIBRARY_PATH" not in found
    assert said == ""


def test_the_script_and_the_table_name_the_same_cards() -> None:
    text = (ROOT / "envs" / "activate.sh").read_text()
    table = read_architectures(ROOT)
    assert f"*{'* | *'.join(table.not_data_center)}*)" in text
    assert is_data_center(("NVIDIA H200", "NVIDIA A10"), table)
    assert not is_data_center(("NVIDIA H200", "NVIDIA GeForce RTX 5090"), table)


@pytest.mark.parametrize(
    ("environment", "host", "reason"),
    [
        ("train", Host("x86_64", "2.35", "570.86.15", ("Tesla T4",)), ""),
        ("train", Host("x86_64", "2.35", "550.54.15", ("NVIDIA H100",)), "needs NVIDIA driver 570.26 or newer"),
        ("train", Host("aarch64", "2.35", "", ()), "it is for x86_64, and this machine is aarch64"),
        ("train", Host("x86_64", "2.28", "", ()), "need glibc 2.31 or newer, and this machine has 2.28"),
        ("b300", Host("aarch64", "2.39", "580.65.06", ("NVIDIA GB300",)), "this machine is aarch64"),
        ("b300", Host("x86_64", "2.39", "570.86.15", ("NVIDIA B200",)), ""),  # cuda-compat
        ("b300", Host("x86_64", "2.39", "570.86.15", ("NVIDIA GeForce RTX 5080",)), "needs NVIDIA driver 580.65.06"),
        ("gh200", Host("aarch64", "2.39", "570.86.15", ("NVIDIA GH200 480GB",)), "needs NVIDIA driver 580.65.06"),
        ("gh200", Host("aarch64", "2.39", "580.65.06", ("NVIDIA GH200 480GB",)), ""),
        ("default", Host("arm64", "", "", ()), ""),
    ],
)
def test_a_host_is_judged_by_the_profile(environment: str, host: Host, reason: str) -> None:
    profile = next(profile for profile in read_profiles(ROOT) if profile.name == environment)
    found = refusals(profile, host, read_architectures(ROOT))
    assert len(found) == bool(reason)
    assert not reason or reason in found[0]


def test_versions_are_compared_as_numbers() -> None:
    assert version_key("575.51.03") > version_key("570.124.6")
    assert version_key("2.9") < version_key("2.31")
