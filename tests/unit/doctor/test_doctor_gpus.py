"""The doctor on GPUs: recorded readings of NVML, and what it says of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tanren.common.doctor import Finding, Subject, Verdict, examine
from tanren.common.doctor._finding import worst
from tanren.common.doctor._gpus import check_gpus
from tanren.common.doctor._nvml import Gpu, Process, Reading
from tanren.common.doctor._visible import VARIABLE

from .conftest import by_name, cuda_tool
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
    SLICES,
    T4,
    gpu,
    host,
    reading,
)

Make = Callable[[str], Subject]


def on(subject: Subject, branch: str, *gpus: Gpu, **variables: str) -> Subject:
    """Return the subject on another machine."""
    of = reading(branch, *gpus)
    machine = subject.profile.machines[0]
    return replace(subject, reading=of, host=host(of, machine), variables={**subject.variables, **variables})


def rows(subject: Subject) -> dict[str, Finding]:
    """Return what is said of the GPUs."""
    return by_name(check_gpus(subject))


@pytest.mark.parametrize(
    ("environment", "branch", "one"),
    [
        *[("train", branch, one) for branch in ("570", "575", "580") for one in (T4, A100, H100, RTX_5080)],
        *[("b300", "580", one) for one in (T4, A100, RTX_5080, H100, H200, B200, B300)],
        ("train", "575", B300),
        ("gh200", "580", GH200),
        ("gh200", "580", GB10),
    ],
)
def test_a_free_gpu_that_the_environment_serves_is_ok(
    gpu_subject: Make, environment: str, branch: str, one: Gpu
) -> None:
    found = rows(on(gpu_subject(environment), branch, one))
    assert worst(found.values()) is Verdict.OK, found
    assert found.keys() == {"GPU 0", "driver's CUDA"}
    assert one.name in found["GPU 0"].found
    assert f"compute capability {one.compute_capability}" in found["GPU 0"].found


def test_nothing_is_said_for_the_cpu_environment_and_where_no_gpu_is_asked_for(
    gpu_subject: Make, cpu_subject: Subject
) -> None:
    assert rows(cpu_subject) == {}
    assert rows(replace(on(gpu_subject("train"), "580"), wants_gpu=False)) == {}


def test_the_gpus_are_judged_after_the_driver_even_from_another_environment(gpu_subject: Make) -> None:
    subject = on(gpu_subject("b300"), "580", H100, PIXI_ENVIRONMENT_NAME="train")
    order = [finding.what for finding in examine(subject)]
    assert order.index("its contents") < order.index("NVIDIA driver") < order.index("GPU 0")


def test_a_gpu_of_another_environment_is_refused_with_that_environment(gpu_subject: Make) -> None:
    subject = on(gpu_subject("gh200"), "580", T4)
    finding = rows(replace(subject, host=replace(subject.host, machine="x86_64")))["GPU 0"]
    assert (finding.verdict, finding.fix) == (Verdict.REFUSED, "./pixiw run -e b300 doctor")
    assert finding.needed.startswith("compute capability 8.0, 9.0")


def test_a_gpu_that_no_environment_serves_is_refused(gpu_subject: Make) -> None:
    finding = rows(on(gpu_subject("train"), "575", gpu("Tesla V100-SXM2-16GB", "7.0", 16.0)))["GPU 0"]
    assert finding.verdict is Verdict.REFUSED
    assert "--recommend" in finding.fix


@pytest.mark.parametrize(
    ("architectures", "verdict"), [(("90", "100", "130"), Verdict.WARNING), (("90", "100"), Verdict.REFUSED)]
)
def test_an_unknown_newer_chip_is_judged_by_ptxas_and_left_to_the_deep_proof(
    gpu_subject: Make, architectures: tuple[str, ...], verdict: Verdict
) -> None:
    subject = on(gpu_subject("b300"), "580", gpu("NVIDIA R100", "13.0", 288.0))
    cuda_tool(subject.prefix / "bin" / "ptxas", "13.0", architectures)
    finding = rows(subject)["GPU 0"]
    assert finding.verdict is verdict
    assert ("does not know sm_130" in finding.found) == (verdict is Verdict.REFUSED)
    assert ("prove it" in finding.fix) == (verdict is Verdict.WARNING)


def test_a_gpu_that_does_not_say_its_capability_is_unknown(gpu_subject: Make) -> None:
    finding = rows(on(gpu_subject("train"), "575", replace(H100, compute_capability="")))["GPU 0"]
    assert finding.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (gpu("NVIDIA H100 80GB HBM3", "9.0", 79.65, used=77.2), Verdict.REFUSED),
        (gpu("NVIDIA H100 80GB HBM3", "9.0", 79.65, used=20.0), Verdict.WARNING),
        (gpu("NVIDIA H100 80GB HBM3", "9.0", 79.65, used=1.1), Verdict.WARNING),
        (gpu("Tesla T4", "7.5", 15.0, used=0.9), Verdict.WARNING),  # more than 5 %
        (gpu("NVIDIA GeForce GTX 1650", "7.5", 3.9), Verdict.REFUSED),
        (gpu("NVIDIA H100 80GB HBM3", "9.0", 79.65, used=0.9), None),
    ],
)
def test_a_gpu_full_of_someone_elses_memory_names_the_process(
    gpu_subject: Make, one: Gpu, verdict: Verdict | None
) -> None:
    found = rows(on(gpu_subject("b300"), "580", one))
    finding = found.get("GPU 0 memory")
    assert (finding.verdict if finding else None) is verdict
    if finding and one.processes:
        assert f"pid 4711 (python3) {one.used_gib:.1f} GiB" in finding.found


def test_memory_of_processes_that_cannot_be_seen_counts_too(gpu_subject: Make) -> None:
    hidden = replace(gpu("NVIDIA H100 80GB HBM3", "9.0", 79.65, used=77.2), processes=())
    finding = rows(on(gpu_subject("b300"), "580", hidden))["GPU 0 memory"]
    assert finding.verdict is Verdict.REFUSED
    assert "that this user or container cannot see" in finding.found
    unnamed = replace(hidden, processes=(Process(12, "", None),))
    assert "used by pid 12, " in rows(on(gpu_subject("b300-cuda13"), "580", unnamed))["GPU 0 memory"].found


def test_of_a_full_gpu_beside_a_free_one_the_fix_is_to_take_the_other(gpu_subject: Make) -> None:
    full, free = gpu("NVIDIA H200", "9.0", 140.4, used=139.0), replace(H200, index=1, uuid="GPU-1b")
    subject = on(gpu_subject("b300"), "580", full, free)
    assert rows(subject)["GPU 0 memory"].fix.endswith(f"take another GPU by {VARIABLE}")
    chosen = rows(replace(subject, variables={**subject.variables, VARIABLE: "1"}))
    assert worst(chosen.values()) is Verdict.OK
    assert "GPU 0" not in chosen


def test_mig_without_slices_is_refused_and_slices_are_listed_to_choose_from(gpu_subject: Make) -> None:
    subject = gpu_subject("b300")
    empty = rows(on(subject, "580", replace(B200_MIG, slices=())))
    assert empty["GPU 0 MIG"].verdict is Verdict.REFUSED
    assert "nvidia-smi mig -i 0 -cgi" in empty["GPU 0 MIG"].fix
    unchosen = rows(on(subject, "580", B200_MIG))
    assert unchosen["GPU 0 MIG"].verdict is Verdict.WARNING
    assert all(part.uuid in unchosen["GPU 0 MIG"].found for part in SLICES)
    assert unchosen["GPU 0 MIG"].fix == f"choose one: export {VARIABLE}={SLICES[1].uuid}"  # with the most free memory
    assert unchosen["GPU 0 memory"].verdict is Verdict.REFUSED  # CUDA takes the first: 2 GiB free
    chosen = rows(on(subject, "580", B200_MIG, CUDA_VISIBLE_DEVICES=SLICES[1].uuid))
    assert worst(chosen.values()) is Verdict.OK, chosen
    assert "1g.23gb" in chosen["GPU 0 MIG-15f0c7d2"].found
    two = rows(on(subject, "580", B200_MIG, CUDA_VISIBLE_DEVICES=f"{SLICES[1].uuid},{SLICES[2].uuid}"))
    assert two["GPU 0 MIG"].verdict is Verdict.WARNING  # CUDA takes the first alone
    assert worst(rows(on(subject, "580", replace(B200_MIG, slices=SLICES[2:]))).values()) is Verdict.OK


@pytest.mark.parametrize("uuid", [SLICES[0].uuid, SLICES[0].uuid[:8]])
def test_the_first_slice_can_be_chosen_by_the_beginning_of_its_uuid(gpu_subject: Make, uuid: str) -> None:
    found = rows(on(gpu_subject("b300"), "580", B200_MIG, CUDA_VISIBLE_DEVICES=uuid))
    assert found[VARIABLE].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("errors", "pending", "failed", "verdict"),
    [
        (0, False, False, None),
        (None, None, None, None),
        (2, False, False, Verdict.WARNING),
        (0, True, False, Verdict.WARNING),
        (2, True, False, Verdict.REFUSED),
        (1, False, True, Verdict.REFUSED),
    ],
)
def test_memory_errors_are_judged_by_what_is_left_to_repair(
    gpu_subject: Make, errors: int | None, pending: bool | None, failed: bool | None, verdict: Verdict | None
) -> None:
    one = replace(A100, ecc_errors=errors, repair_pending=pending, repair_failed=failed)
    finding = rows(on(gpu_subject("b300"), "580", one)).get("GPU 0 memory errors")
    assert (finding.verdict if finding else None) is verdict


def test_a_gpu_that_does_not_answer_is_refused_unless_it_is_left_out(gpu_subject: Make) -> None:
    subject = on(gpu_subject("b300"), "580", H100, Gpu(1, fault="GPU is lost"))
    assert rows(subject)["GPU 1"].verdict is Verdict.REFUSED
    assert "GPU 1" not in rows(replace(subject, variables={**subject.variables, VARIABLE: "0"}))


def test_two_different_gpus_are_a_warning_that_names_those_of_one_kind(gpu_subject: Make) -> None:
    other = replace(RTX_5080, index=1, uuid="GPU-1b")
    subject = on(gpu_subject("train"), "580", A100, other, replace(A100, index=2, uuid="GPU-2c"))
    finding = rows(subject)["GPUs of one kind"]
    assert finding.verdict is Verdict.WARNING
    assert finding.found == "2 x NVIDIA A100-SXM4-80GB and 1 x NVIDIA GeForce RTX 5080"
    assert finding.fix.endswith(f"export {VARIABLE}={A100.uuid},GPU-2c")
    numbers = replace(subject, variables={**subject.variables, VARIABLE: "0,2"})
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in rows(numbers)[VARIABLE].fix
    ordered = replace(numbers, variables={**numbers.variables, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert worst(rows(ordered).values()) is Verdict.OK


def test_links_that_differ_between_gpus_of_one_kind_are_a_warning(gpu_subject: Make) -> None:
    subject, second = gpu_subject("b300"), replace(H100, index=1, uuid="GPU-1b")
    assert rows(on(subject, "580", H100, second))["NVLink"].found == "18 active on each GPU"
    finding = rows(on(subject, "580", H100, replace(second, nvlinks=12)))["NVLink"]
    assert (finding.verdict, finding.found) == (Verdict.WARNING, "active by GPU: 18, 12")
    assert "NVLink" not in rows(on(subject, "580", T4, replace(T4, index=1, uuid="GPU-1b")))


@pytest.mark.parametrize(
    ("named", "verdict", "count"),
    [
        ("", Verdict.REFUSED, 0),
        ("-1", Verdict.REFUSED, 0),
        ("NoDevFiles", Verdict.REFUSED, 0),
        ("5", Verdict.REFUSED, 0),
        ("0,5,1", Verdict.REFUSED, 1),
        ("1,1", Verdict.REFUSED, 1),
        ("0,", Verdict.REFUSED, 1),
        ("MIG-0", Verdict.REFUSED, 0),
        ("GPU-", Verdict.REFUSED, 0),  # two begin so
        ("1", Verdict.OK, 1),
        (" 1 , 0 ", Verdict.OK, 2),
        ("GPU-1b,0", Verdict.OK, 2),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    gpu_subject: Make, named: str, verdict: Verdict, count: int
) -> None:
    second = replace(H100, index=1, uuid="GPU-1b44")
    found = rows(on(gpu_subject("b300"), "580", H100, second, CUDA_VISIBLE_DEVICES=named))
    assert found[VARIABLE].verdict is verdict, found[VARIABLE]
    assert f"{count} of 2 GPUs" in found[VARIABLE].found
    assert sum(what in ("GPU 0", "GPU 1") for what in found) == count


@pytest.mark.parametrize(
    ("environment", "branch", "one", "verdict", "told"),
    [
        ("train", "580", H100, Verdict.OK, "13.0"),
        ("train", "575", H100, Verdict.OK, "12.9"),
        ("train", "570", H100, Verdict.OK, "12.8: runs 12.9 by minor-version compatibility"),
        ("train", "535", H100, Verdict.REFUSED, "12.2"),
        ("b300", "580", H100, Verdict.OK, "13.0"),
        ("b300", "570", H100, Verdict.OK, "12.8; cuda-compat brings 13.0"),
        ("b300", "535", A100, Verdict.OK, "12.2; cuda-compat brings 13.0"),
        ("b300", "570", RTX_5080, Verdict.REFUSED, "12.8"),
        ("gh200", "570", GH200, Verdict.REFUSED, "12.8"),
    ],
)
def test_the_drivers_cuda_is_held_against_the_toolkit(
    gpu_subject: Make, environment: str, branch: str, one: Gpu, verdict: Verdict, told: str
) -> None:
    finding = rows(on(gpu_subject(environment), branch, one))["driver's CUDA"]
    assert (finding.verdict, finding.found) == (verdict, told)


def test_an_old_libcuda_before_a_new_driver_is_refused(gpu_subject: Make) -> None:
    subject = on(gpu_subject("b300"), "580", H100)
    finding = rows(replace(subject, reading=replace(subject.reading, cuda="12.2")))["driver's CUDA"]
    assert finding.verdict is Verdict.REFUSED
    assert "LD_LIBRARY_PATH" in finding.fix


@pytest.mark.parametrize(
    ("said", "driver", "verdict"),
    [
        (Reading("580.95.05", "13.0"), "580.95.05", Verdict.REFUSED),
        (Reading(fault="NVML: not found", fix="install it"), "", Verdict.REFUSED),
        (Reading(fault="NVML: not found", fix="install it"), "580.95.05", Verdict.UNKNOWN),
    ],
)
def test_no_gpu_is_refused_and_one_that_cannot_be_asked_for_is_unknown(
    gpu_subject: Make, said: Reading, driver: str, verdict: Verdict
) -> None:
    subject = gpu_subject("train")
    found = rows(replace(subject, reading=said, host=replace(subject.host, driver=driver)))
    assert [(what, finding.verdict) for what, finding in found.items()] == [("GPUs", verdict)]
