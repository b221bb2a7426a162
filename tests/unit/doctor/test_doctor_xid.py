"""The doctor on the kernel's log: Xid messages, which GPU they are of, and who caused them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Subject, Verdict
from tanren.common.doctor._finding import Finding
from tanren.common.doctor._nvml import pci_name
from tanren.common.doctor._xid import Xid, check_xids, find_xids, read_records

from .recorded_gpus import H100, reading

Make = Callable[[str], Subject]
PROGRAM = "NVRM: Xid (PCI:0000:3b:00): 31, pid=4711, name=python3, Ch 00000008, intr 00000000. MMU Fault"
ECC = "NVRM: Xid (PCI:0000:3b:00): 48, pid='<unknown>', name=<unknown>, DBE (double bit error)"
LOST = "NVRM: Xid (PCI:0000:af:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def record(text: str, minutes_ago: float = 5.0) -> str:
    """Return a record as /dev/kmsg gives it."""
    micro = int((time.clock_gettime(time.CLOCK_MONOTONIC) - 60 * minutes_ago) * 1e6)
    return f"3,1234,{max(0, micro)},-;{text}\n SUBSYSTEM=pci\n"


@pytest.fixture
def judged(gpu_subject: Make, tmp_path: Path) -> Callable[..., list[Finding]]:
    """Return what is said of one H100 at 3b:00 after these messages."""

    def check(*texts: str) -> list[Finding]:
        log = tmp_path / "kmsg"
        log.write_text("".join(map(record, texts)), encoding="utf-8")
        seen = reading("580", replace(H100, pci="0000:3b:00"))
        return list(check_xids(replace(gpu_subject("train"), reading=seen), log))

    return check


Judged = Callable[..., list[Finding]]


def test_messages_are_found_among_others_with_gpu_code_and_time() -> None:
    records = ["6,1,5000000,-;nvidia 0000:3b:00.0: enabled", f"3,2,7500000,-;{ECC}", f"3,3,8000000,-;{LOST}"]
    assert list(find_xids(records)) == [Xid("0000:3b:00", 48, 7.5), Xid("0000:af:00", 79, 8.0)]


def test_addresses_of_nvml_and_of_the_kernel_are_one() -> None:
    assert pci_name("00000000:3B:00.0") == pci_name("0000:3b:00") == "0000:3b:00"
    assert pci_name("00010001:AF:1F.0") == "0001:af:1f"


def test_a_quiet_log_is_ok(judged: Judged) -> None:
    [finding] = judged("usb 1-1: new device")
    assert (finding.verdict, finding.found) == (Verdict.OK, "none since the machine started")


def test_what_a_program_caused_is_said_and_held_against_nobody(judged: Judged) -> None:
    [finding] = judged(PROGRAM, PROGRAM)
    assert (finding.what, finding.verdict) == ("GPU 0 Xid", Verdict.OK)
    assert "31 (a program read or wrote memory that was not its own), 2 times, last 5 min ago" in finding.found


def test_what_the_gpu_caused_is_a_warning_with_the_machines_first(judged: Judged) -> None:
    [finding] = judged(PROGRAM, ECC)
    assert finding.verdict is Verdict.WARNING
    assert finding.found.startswith("48 (a memory error that ECC could not correct)")
    assert "--gpu-reset -i 0" in finding.fix


def test_a_code_that_is_in_no_table_is_a_warning(judged: Judged) -> None:
    [finding] = judged(ECC.replace("48", "999"))
    assert finding.verdict is Verdict.WARNING
    assert "999 (see NVIDIA's catalog" in finding.found


def test_a_gpu_that_the_driver_no_longer_shows_is_refused(judged: Judged) -> None:
    [finding] = judged(LOST)
    assert (finding.what, finding.verdict) == ("GPU at 0000:af:00 Xid", Verdict.REFUSED)
    assert finding.fix.startswith("restart the machine")


def test_a_log_that_this_user_may_not_read_is_no_fault_and_said(gpu_subject: Make, tmp_path: Path) -> None:
    [finding] = check_xids(replace(gpu_subject("train"), reading=reading("580", H100)), tmp_path / "none")
    assert finding.verdict is Verdict.OK
    assert "not looked at" in finding.found


def test_a_log_that_has_no_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kmsg")
    writer = os.open(tmp_path / "kmsg", os.O_RDWR | os.O_NONBLOCK)  # open, as the kernel's is: a read would wait
    try:
        os.write(writer, record(ECC).encode())
        assert len(read_records(tmp_path / "kmsg") or ()) == 1
    finally:
        os.close(writer)


def test_the_cpu_environment_and_no_gpu_look_at_no_log(gpu_subject: Make, cpu_subject: Subject) -> None:
    assert list(check_xids(cpu_subject)) == []
    assert list(check_xids(replace(gpu_subject("train"), wants_gpu=False))) == []
