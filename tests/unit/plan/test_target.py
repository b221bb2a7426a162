"""The device that is planned for: named, present and known, present and in no table, sharing the CPU's memory."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from tanren.common.doctor._nvml import Gpu, Reading
from tanren.common.errors import UserError
from tanren.common.plan import GIB, Target, find_target, present_gpu
from tanren.common.plan import _target as target_module


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """Return the list of GPUs that NVML shows; a test fills it."""
    gpus: list[Gpu] = []
    monkeypatch.setattr(target_module, "read_nvml", lambda: Reading(gpus=tuple(gpus)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TANREN_CACHE_DIR", "/nowhere")  # nothing was measured
    return gpus


H100 = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", "9.0", 79.6, 9.6, 70.0)


def _facts(target: Target) -> tuple[str, int, int, bool]:
    return target.name, round(target.total / GIB), round(target.free / GIB), target.here


def test_a_present_gpu_is_planned_with_the_memory_that_is_free(here: list[Gpu]) -> None:
    here.append(H100)
    target = find_target(None, None, "auto")
    assert _facts(target) == ("NVIDIA H100 80GB HBM3", 80, 70, True)
    assert target.gpu is not None
    assert target.gpu.compute_capability == (9, 0)


def test_a_gpu_in_no_table_is_planned_and_its_times_are_said_to_be_anothers(here: list[Gpu]) -> None:
    here.append(replace(H100, name="NVIDIA Something 9000", compute_capability="13.0", memory_gib=48.0, free_gib=47.0))
    target = find_target(None, None, "cuda")
    assert _facts(target) == ("NVIDIA Something 9000", 48, 47, True)
    assert target.gpu is not None
    assert target.gpu.compute_capability == (13, 0)
    assert "is in no table" in target.ceilings.measured
    assert target.bfloat16


def test_a_gpu_that_shares_the_cpus_memory_has_that(here: list[Gpu]) -> None:
    here.append(replace(H100, name="NVIDIA GB10", compute_capability="12.1", memory_gib=None, free_gib=None))
    target = find_target(None, None, "auto")
    assert (target.name, target.device) == ("NVIDIA GB10", "cuda")
    assert target.total == pytest.approx(psutil.virtual_memory().total, rel=1e-6)


def test_what_torch_says_of_its_gpu_is_taken_as_it_is() -> None:
    target = present_gpu("NVIDIA GB10", (12, 1), 100 * GIB, 90 * GIB)
    assert _facts(target) == ("NVIDIA GB10", 100, 90, True)


def test_without_a_gpu_the_cpu_is_planned_for_and_cuda_is_an_error(here: list[Gpu]) -> None:
    assert not here
    assert find_target(None, None, "auto").device == "cpu"
    with pytest.raises(UserError, match="there is no GPU here: name the one to plan for with --gpu"):
        find_target(None, None, "cuda")


def test_a_gpu_is_found_by_its_words_and_a_typing_error_by_the_nearest() -> None:
    assert find_target("rtx 5080", None, "auto").name == "RTX 5080"
    assert find_target("NVIDIA H100 PCIe", None, "auto").name == "H100 PCIe"
    assert round(find_target("H100", 40.0, "auto").total / GIB) == 40
    with pytest.raises(UserError, match=r"'H10O' is in no table: did you mean 'H100'\?"):
        find_target("H10O", None, "auto")
