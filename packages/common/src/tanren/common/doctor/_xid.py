"""What the driver has written to the kernel's log about the GPUs since the machine started: Xid messages.

https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html has the codes. NVML tells of a new one to a program
that waits for it; past ones are in the kernel's log alone, which often only the administrator may read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._nvml import Gpu, pci_name
from tanren.common.doctor._subject import Subject
from tanren.common.doctor._visible import VARIABLE

BY_PROGRAMS = {
    13: "an exception in a program's kernel",
    31: "a program read or wrote memory that was not its own",
    43: "a program's work on the GPU was ended",
    45: "a program's work on the GPU was ended, mostly after another error",
    94: "a memory error that hit one program alone, and ended it",
}
"""What a faulty program causes, or what harms the one program alone: nothing is left of it once the program has ended."""
BY_MACHINE = {
    48: "a memory error that ECC could not correct",
    61: "the GPU's own controller stopped",
    62: "the GPU's own controller halted",
    63: "faulty memory is replaced at the next reset",
    64: "faulty memory could not be replaced",
    74: "an NVLink failed",
    79: "the GPU has fallen off the bus",
    92: "memory errors that ECC corrected, at a high rate",
    95: "a memory error that may have hit every program on the GPU",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
    140: "a memory error that could not be repaired",
    154: "the driver asks for a reset of the GPU",
}
LOG = Path("/dev/kmsg")
_RECORD = 8192  # bytes: the kernel gives one record at a time, and none to a reader with less room
_MESSAGE = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")


@dataclass(frozen=True)
class Xid:
    """One message."""

    pci: str
    """Domain, bus and device: '0000:3b:00'."""
    code: int
    seconds: float
    """Since the machine started."""


def check_xids(subject: Subject, log: Path = LOG) -> Iterator[Finding]:
    """Yield what the log says of each GPU, and of one that NVML no longer sees; nothing for the CPU and --no-gpu."""
    if subject.profile.cuda is None or not subject.wants_gpu or subject.reading.fault:
        return
    records = read_records(log)
    if records is None:
        found = f"not looked at: {log} is for administrators (`sudo dmesg | grep Xid` shows it)"
        yield Finding("Xid messages", found, "none by the machine", Verdict.OK)
        return
    xids = list(find_xids(records))
    gpus = {gpu.pci: gpu for gpu in subject.reading.gpus if gpu.pci}
    for pci in dict.fromkeys(xid.pci for xid in xids):
        yield _finding(gpus.get(pci), pci, [xid for xid in xids if xid.pci == pci], bool(gpus))
    if not xids:
        yield Finding("Xid messages", "none since the machine started", "none by the machine", Verdict.OK)


def read_records(log: Path) -> list[str] | None:
    """Return the records that the kernel's log holds now; None where there is no log, or this user may not read it."""
    try:
        file = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    records: list[str] = []
    try:
        while record := _next_record(file):
            records.append(record.decode("utf-8", errors="replace"))
    except BlockingIOError:  # the end, for now
        return records
    except OSError:  # some containers let it be opened, and not read
        return None
    finally:
        os.close(file)
    return records


def _next_record(file: int) -> bytes:
    while True:
        try:
            return os.read(file, _RECORD)
        except (
            BrokenPipeError
        ):  # the kernel wrote over what was next; then reading goes on with the oldest that is left
            continue


def find_xids(records: Iterable[str]) -> Iterator[Xid]:
    """Yield the messages in records of /dev/kmsg ('level,number,microseconds,flags;text')."""
    for record in records:
        for line in record.splitlines():
            if match := _MESSAGE.search(line):
                fields = line.partition(";")[0].split(",")
                micro = int(fields[2]) if len(fields) > 2 and fields[2].isdecimal() else 0
                yield Xid(pci_name(match[1]), int(match[2]), micro / 1e6)


def _finding(gpu: Gpu | None, pci: str, xids: list[Xid], known: bool) -> Finding:
    what = f"GPU {gpu.index} Xid" if gpu else f"GPU at {pci} Xid"
    found, needed = "; ".join(_described(xids)), "none by the machine"
    if gpu is None and known:
        fix = "restart the machine (power off and on after Xid 79); if it comes again, have the card looked at"
        return Finding(what, f"{found}; the driver no longer shows this GPU", "every GPU there", Verdict.REFUSED, fix)
    if all(xid.code in BY_PROGRAMS for xid in xids):
        return Finding(what, f"{found}: by programs that have ended", needed, Verdict.OK)
    number = gpu.index if gpu else pci
    fix = (
        f"end all that uses it, then: sudo nvidia-smi --gpu-reset -i {number}; if it comes again, leave it out by {VARIABLE} "
        "and have it looked at"
    )
    return Finding(what, found, needed, Verdict.WARNING, fix)


def _described(xids: list[Xid]) -> Iterator[str]:
    """The machine's first, with their count and the time of the last."""
    codes = dict.fromkeys(xid.code for xid in xids)
    for code in sorted(codes, key=lambda code: code in BY_PROGRAMS):
        of = [xid for xid in xids if xid.code == code]
        meaning = BY_MACHINE.get(code) or BY_PROGRAMS.get(code) or "see NVIDIA's catalog of Xid errors"
        times = f"{len(of)} times, last " if len(of) > 1 else ""
        yield f"{code} ({meaning}), {times}{_ago(time.clock_gettime(time.CLOCK_MONOTONIC) - of[-1].seconds)}"


def _ago(seconds: float) -> str:
    minutes = max(0, int(seconds // 60))
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"
