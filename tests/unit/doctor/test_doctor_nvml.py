"""Reading NVML: this machine's own, and a stand-in for the library that refuses each question in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tanren.common.doctor import _subject
from tanren.common.doctor._nvml import GIB, Gpu, MigSlice, Process, Reading, read_nvml
from tanren.common.environments import Host

from .conftest import ROOT
from .recorded_gpus import reading


class NVMLError(Exception):
    """As nvidia-ml-py has it."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801, N818 (nvidia-ml-py's own name)
    """As nvidia-ml-py has it."""


class NVMLError_LibRmVersionMismatch(NVMLError):  # noqa: N801, N818
    """As nvidia-ml-py has it."""


def _memory(total: float, used: float) -> SimpleNamespace:
    return SimpleNamespace(total=int(total * GIB), used=int(used * GIB), free=int((total - used) * GIB))


def _memory_of(of: str, version: int | None = None) -> SimpleNamespace:
    """The first form of the question counts the driver's own memory as used."""
    kept = 0.0 if version else 0.25
    return _memory(179, 24 + kept) if of == "card 0" else _memory(22.5, 0.5 + kept)


def _slice(_: str, place: int) -> str:
    if place not in (0, 2):
        raise NVMLError("Not Found")
    return f"slice {place}"


def _link(_: str, link: int) -> int:
    if link >= 18:
        raise NVMLError("Invalid Argument")
    return 1 if link < 17 else 0


ANSWERS: dict[str, Callable[..., Any]] = {
    "nvmlInit": lambda: None,
    "nvmlShutdown": lambda: None,
    "nvmlSystemGetDriverVersion": lambda: "580.95.05",
    "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
    "nvmlDeviceGetCount": lambda: 1,
    "nvmlDeviceGetHandleByIndex": lambda index: f"card {index}",
    "nvmlDeviceGetUUID": lambda of: "GPU-4b0c" if of == "card 0" else f"MIG-{of[-1]}",
    "nvmlDeviceGetName": lambda of: "NVIDIA B200" if of == "card 0" else "NVIDIA B200 MIG 1g.23gb",
    "nvmlDeviceGetCudaComputeCapability": lambda _: (10, 0),
    "nvmlDeviceGetMemoryInfo": _memory_of,
    "nvmlDeviceGetComputeRunningProcesses": lambda _: [
        SimpleNamespace(pid=4711, usedGpuMemory=20 * GIB),
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=GIB),
    ],
    "nvmlDeviceGetGraphicsRunningProcesses": lambda _: [
        SimpleNamespace(pid=4711, usedGpuMemory=20 * GIB),
        SimpleNamespace(pid=12, usedGpuMemory=None),
    ],
    "nvmlSystemGetProcessName": lambda pid: "/usr/bin/python3 serve.py --port 80" if pid == 4711 else "",
    "nvmlDeviceGetMigMode": lambda _: [1, 1],
    "nvmlDeviceGetMaxMigDeviceCount": lambda _: 7,
    "nvmlDeviceGetMigDeviceHandleByIndex": _slice,
    "nvmlDeviceGetTotalEccErrors": lambda _, kind, counter: 3 if (kind, counter) == (1, 0) else 0,
    "nvmlDeviceGetRetiredPagesPendingStatus": lambda _: 1,
    "nvmlDeviceGetRemappedRows": lambda _: (0, 3, 1, 0),
    "nvmlDeviceGetNvLinkState": _link,
    "nvmlDeviceGetPciInfo": lambda _: SimpleNamespace(busId="00000000:3B:00.0"),
}
CONSTANTS = {
    "NVML_DEVICE_MIG_ENABLE": 1,
    "NVML_FEATURE_ENABLED": 1,
    "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
    "NVML_NVLINK_MAX_LINKS": 36,
    "NVML_VOLATILE_ECC": 0,
    "nvmlMemory_v2": 0x2000028,
}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the stand-in, in the place of nvidia-ml-py's module."""
    module = ModuleType("pynvml")
    for name, value in {**ANSWERS, **CONSTANTS, "NVMLError": NVMLError}.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def fail_with(fault: Exception) -> Callable[..., Any]:
    """Return a question that is answered with a fault."""

    def query(*_: object) -> Any:
        raise fault

    return query


def test_all_that_nvml_says_is_read(nvml: ModuleType) -> None:
    assert read_nvml() == Reading(
        "580.95.05",
        "13.0",
        (
            Gpu(
                index=0,
                uuid="GPU-4b0c",
                name="NVIDIA B200",
                compute_capability="10.0",
                memory_gib=179.0,
                used_gib=24.0,
                free_gib=155.0,
                processes=(Process(4711, "python3", 20.0), Process(12, "", None)),
                mig=True,
                slices=(MigSlice("MIG-0", "1g.23gb", 22.5, 22.0), MigSlice("MIG-2", "1g.23gb", 22.5, 22.0)),
                ecc_errors=3,
                repair_pending=True,
                repair_failed=False,
                nvlinks=17,
                pci="0000:3b:00",
            ),
        ),
    )


@pytest.mark.parametrize("query", sorted(ANSWERS.keys() - {"nvmlInit"}))
def test_a_question_that_is_not_supported_leaves_the_rest(nvml: ModuleType, query: str) -> None:
    whole = read_nvml()
    setattr(nvml, query, fail_with(NVMLError("Not Supported")))
    partial = read_nvml()
    assert partial.fault == ""
    if query not in ("nvmlDeviceGetCount", "nvmlSystemGetDriverVersion"):
        assert partial.driver == whole.driver
        assert len(partial.gpus) == 1
    if query == "nvmlDeviceGetHandleByIndex":
        assert partial.gpus[0].fault == "Not Supported"


def test_a_driver_that_knows_only_the_first_form_of_the_memory_question_is_asked_so(nvml: ModuleType) -> None:
    def first_form(of: str, version: int | None = None) -> SimpleNamespace:
        if version is not None:
            raise NVMLError("Function Not Found")
        return _memory_of(of)

    nvml.nvmlDeviceGetMemoryInfo = first_form  # type: ignore[attr-defined]
    assert read_nvml().gpus[0].used_gib == 24.25


def test_older_cards_are_read_too(nvml: ModuleType) -> None:
    for query in ("nvmlDeviceGetRemappedRows", "nvmlDeviceGetMigMode", "nvmlDeviceGetNvLinkState"):
        setattr(nvml, query, fail_with(NVMLError("Not Supported")))
    [old] = read_nvml().gpus
    assert (old.repair_pending, old.repair_failed, old.mig, old.slices, old.nvlinks) == (True, None, False, (), None)


def test_a_process_name_that_is_no_text_is_left_out(nvml: ModuleType) -> None:
    nvml.nvmlSystemGetProcessName = fail_with(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))  # type: ignore[attr-defined]
    assert [process.name for process in read_nvml().gpus[0].processes] == ["", ""]


@pytest.mark.parametrize(
    ("fault", "fix"),
    [
        (NVMLError_LibraryNotFound("NVML Shared Library Not Found"), "install NVIDIA's driver"),
        (NVMLError_LibRmVersionMismatch("Driver/library version mismatch"), "restart the machine"),
        (NVMLError("Unknown Error"), "let `nvidia-smi` run"),
    ],
)
def test_where_nvml_cannot_be_had_the_reading_says_why_and_what_to_do(
    nvml: ModuleType, fault: Exception, fix: str
) -> None:
    nvml.nvmlInit = fail_with(fault)  # type: ignore[attr-defined]
    said = read_nvml()
    assert said.fault == f"NVML: {fault}"
    assert said.fix.startswith(fix)
    assert said.gpus == ()


def test_without_the_module_the_reading_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_nvml().fault == "the Python package nvidia-ml-py is not installed"


def test_this_machines_own_reading_names_its_gpus_or_its_fault() -> None:
    said = read_nvml()
    assert bool(said.fault) != bool(said.driver)
    assert not said.fault or (said.gpus == () and said.fix)


def test_the_stand_in_asks_only_what_nvidia_ml_py_has() -> None:
    real = pytest.importorskip("pynvml")
    assert all(callable(getattr(real, name)) for name in ANSWERS)
    links = "NVML_NVLINK_MAX_LINKS"  # grows with the versions
    assert {name: getattr(real, name) for name in CONSTANTS.keys() - {links}}.items() < CONSTANTS.items()
    assert getattr(real, links) >= 18
    assert issubclass(real.NVMLError_LibraryNotFound, real.NVMLError)
    assert issubclass(real.NVMLError_LibRmVersionMismatch, real.NVMLError)


def test_nvml_is_asked_only_for_a_gpu_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.setattr(_subject, "read_nvml", lambda: reading("580"))
    for environment, wants_gpu in (("default", True), ("train", False)):
        assert _subject.read_subject(environment, wants_gpu).reading.fault == "not asked"
    assert _subject.read_subject("train", True).reading == reading("580")


def test_where_proc_has_no_driver_nvmls_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Host("x86_64", "2.35", "", ())
    monkeypatch.setattr(_subject, "read_host", lambda: bare)  # as on WSL2
    said = reading("570", Gpu(0, name="NVIDIA GeForce RTX 5080"))
    assert _subject.read_host_with(said) == Host("x86_64", "2.35", "570.124.06", ("NVIDIA GeForce RTX 5080",))
    assert _subject.read_host_with(Reading(fault="none")) == bare
