"""Are the GPUs that a run would see fit for it: served by the environment, free, whole, and seen at all?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tanren.common.doctor._child import run
from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._nvml import Gpu
from tanren.common.doctor._recommend import chosen, machine_of, options
from tanren.common.doctor._subject import Subject
from tanren.common.doctor._toolkit import known_architectures
from tanren.common.doctor._visible import VARIABLE, Visible, visible_gpus
from tanren.common.environments import is_unknown, needs_compat, read_profiles, refusals, sm_name, unserved, version_key

LEAST_FREE = 4.0
"""GiB: a 0.5B model with LoRA in bf16 with its CUDA context; nothing that is worth a run takes less."""
OTHERS_GIB, OTHERS_SHARE = 1.0, 0.05
"""Of the memory, used by others: a warning from either on. A desktop or an idle CUDA context stays below both."""


def check_gpus(subject: Subject) -> Iterator[Finding]:
    """Yield what is visible, each GPU, and how they fit together; nothing for the CPU environment and --no-gpu."""
    if subject.profile.cuda is None or not subject.wants_gpu:
        return
    reading = subject.reading
    if reading.fault or not reading.gpus:
        yield _no_gpus(subject)
        return
    seen, nothing = visible_gpus(reading.gpus, subject.variables)
    yield from _selection(subject, seen, nothing)
    for gpu in dict.fromkeys(one.gpu for one in seen):
        yield from _card(subject, gpu)
    for one in seen:
        if not one.gpu.fault:
            yield from _usable(subject, one)
    yield from _together(seen)
    if reading.cuda:
        yield _cuda(subject)


def _no_gpus(subject: Subject) -> Finding:
    reading, needed = subject.reading, "at least one"
    if not reading.fault:
        fix = "look at `nvidia-smi` and `lspci -d 10de:`; in a container or a batch job: ask for a GPU"
        return Finding("GPUs", "none: NVIDIA's driver sees no card", needed, Verdict.REFUSED, fix)
    # With a driver the cards may be fit all the same: they only could not be asked.
    verdict = Verdict.UNKNOWN if subject.host.driver else Verdict.REFUSED
    return Finding("GPUs", reading.fault, needed, verdict, reading.fix)


def _selection(subject: Subject, seen: tuple[Visible, ...], nothing: str) -> Iterator[Finding]:
    if (named := subject.variables.get(VARIABLE)) is None:
        return
    gpus = subject.reading.gpus
    needed = "numbers or UUIDs of GPUs that are here"
    fix = f"unset {VARIABLE}, or name some of: {', '.join(_names(gpus))}"
    found = f"'{named}': {len(seen)} of {len(gpus)} GPUs"
    if nothing:
        found += f"; {nothing} names no other GPU, and CUDA ignores it and all after it"
    good = bool(seen) and not nothing
    by_number = any(entry.strip().isdecimal() for entry in named.split(","))
    differ = len({gpu.name for gpu in gpus}) > 1
    if good and by_number and differ and subject.variables.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        found += "; CUDA numbers the fastest first, nvidia-smi and the doctor by bus"
        fix = f"export CUDA_DEVICE_ORDER=PCI_BUS_ID, or {VARIABLE}={','.join(one.uuid for one in seen)}"
        yield Finding(VARIABLE, found, "GPUs that no other order changes", Verdict.WARNING, fix)
        return
    yield judge(good, VARIABLE, found, needed, fix)


def _names(gpus: tuple[Gpu, ...]) -> Iterator[str]:
    for gpu in gpus:
        if gpu.mig:
            yield from (part.uuid for part in gpu.slices)
        else:
            yield str(gpu.index)


def _card(subject: Subject, gpu: Gpu) -> Iterator[Finding]:
    """What is said of a card as a whole, whichever of its slices are taken."""
    what = f"GPU {gpu.index}"
    if gpu.fault:
        fix = f"restart the machine, or leave it out by {VARIABLE}; `dmesg | grep Xid` says what happened to it"
        yield Finding(what, gpu.fault, "a GPU that answers", Verdict.REFUSED, fix)
        return
    if gpu.mig:
        yield _mig(subject, gpu, f"{what} MIG")
    yield from _errors(gpu, f"{what} memory errors")


def _usable(subject: Subject, one: Visible) -> Iterator[Finding]:
    what = f"GPU {one.gpu.index}"
    if one.slice and VARIABLE in subject.variables:
        what += f" {one.slice.uuid[:12]}"  # 'MIG-' and the first of its parts
    yield _served(subject, one, what)
    if one.slice or not one.gpu.mig:
        yield from _memory(subject, one, f"{what} memory")


def _served(subject: Subject, one: Visible, what: str) -> Finding:
    profile, gpu = subject.profile, one.gpu
    capability = gpu.compute_capability
    memory = "memory not reported" if one.memory_gib is None else f"{one.memory_gib:.1f} GiB"
    if one.memory_gib is not None and one.free_gib is not None:
        memory += f", {one.free_gib:.1f} free"
    name = f"{gpu.name} {one.slice.profile}" if one.slice else gpu.name
    found = f"{name}, compute capability {capability or 'not known'}, {memory}"
    needed = f"compute capability {', '.join(profile.compute_capabilities)}"
    proof = f"prove it: {subject.run('doctor --deep')}"
    if not capability:
        return Finding(what, found, needed, Verdict.UNKNOWN, proof)
    if unserved(profile, capability, subject.architectures):
        return Finding(what, found, needed, Verdict.REFUSED, _elsewhere(subject))
    if not is_unknown(capability, subject.architectures):
        return Finding(what, found, needed, Verdict.OK)
    sm = sm_name(capability)
    known = known_architectures(run([subject.prefix / "bin" / "ptxas", "--help"]).text)
    if known and sm not in known:
        return Finding(what, f"{found}; ptxas does not know {sm}", needed, Verdict.REFUSED, _elsewhere(subject))
    return Finding(what, f"{found}, which is in no table yet", needed, Verdict.WARNING, proof)


def _elsewhere(subject: Subject) -> str:
    """Name the environment that is for these GPUs."""
    machine = machine_of(subject.host, subject.reading, subject.variables)
    best = chosen(options(machine, read_profiles(subject.root), subject.architectures))
    if best is None or best.profile == subject.profile:
        return f"choose other GPUs by {VARIABLE}, or ask what would help: {subject.run('doctor --recommend')}"
    return f"./pixiw run -e {best.name} doctor"


def _mig(subject: Subject, gpu: Gpu, what: str) -> Finding:
    needed = "a slice for the run"
    if not gpu.slices:
        fix = (
            f"make one: sudo nvidia-smi mig -i {gpu.index} -cgi PROFILE -C (`nvidia-smi mig -i {gpu.index} -lgip` lists "
            f"the profiles), or switch MIG off: sudo nvidia-smi -i {gpu.index} -mig 0"
        )
        return Finding(what, "MIG is on, and there is no slice: CUDA sees no GPU", needed, Verdict.REFUSED, fix)
    listed = ", ".join(
        f"{part.uuid} ({part.profile or 'profile not known'}{_free(part.free_gib)})" for part in gpu.slices
    )
    if len(gpu.slices) == 1 or subject.variables.get(VARIABLE, "").count("MIG-") == 1:
        return Finding(what, listed, needed, Verdict.OK)
    # the one with the most free memory
    best = max(gpu.slices, key=lambda part: part.free_gib or 0.0)
    found = f"{len(gpu.slices)} slices, of which CUDA takes the first alone: {listed}"
    return Finding(what, found, needed, Verdict.WARNING, f"choose one: export {VARIABLE}={best.uuid}")


def _free(gib: float | None) -> str:
    return "" if gib is None else f", {gib:.1f} GiB free"


def _memory(subject: Subject, one: Visible, what: str) -> Iterator[Finding]:
    total, free = one.memory_gib, one.free_gib
    if total is None or free is None:
        return  # a GPU that shares the CPU's memory (GB10) reports none
    used = (one.gpu.used_gib or 0.0) if one.slice is None else total - free
    others = [
        f"pid {process.pid}{f' ({process.name})' if process.name else ''}"
        + ("" if process.gib is None else f" {process.gib:.1f} GiB")
        for process in (one.gpu.processes if one.slice is None else ())
    ]
    by = f" by {', '.join(others)}" if others else " by programs that this user or container cannot see"
    by = "" if one.slice else by  # NVML names the processes of the whole card
    found = f"{used:.1f} GiB used{by}, {free:.1f} of {total:.1f} GiB free"
    is_used = used > OTHERS_GIB or used > OTHERS_SHARE * total
    elsewhere = f", or take another GPU by {VARIABLE}" if len(subject.reading.gpus) > 1 or one.slice else ""
    fix = f"let it end, or end it{elsewhere}" if is_used else f"take a larger GPU{elsewhere}"
    if free < LEAST_FREE:
        yield Finding(what, found, f"{LEAST_FREE:.0f} GiB free", Verdict.REFUSED, fix)
    elif is_used:
        yield Finding(what, found, "no other program's", Verdict.WARNING, fix)


def _errors(gpu: Gpu, what: str) -> Iterator[Finding]:
    errors, needed = gpu.ecc_errors or 0, "none that ECC could not correct"
    reset = f"end all that uses it, then: sudo nvidia-smi --gpu-reset -i {gpu.index} (or restart the machine)"
    count = f"{errors} not corrected since the driver was loaded"
    if gpu.repair_failed:
        fix = f"have the card replaced, and leave it out by {VARIABLE} until then"
        yield Finding(what, f"{count}; a row could not be replaced", needed, Verdict.REFUSED, fix)
    elif errors and gpu.repair_pending:
        yield Finding(what, f"{count}; the faulty memory is replaced at the next reset", needed, Verdict.REFUSED, reset)
    elif errors or gpu.repair_pending:
        pending = "; faulty memory is replaced at the next reset" if gpu.repair_pending else ""
        yield Finding(what, f"{count}{pending}", needed, Verdict.WARNING, reset)


def _together(seen: tuple[Visible, ...]) -> Iterator[Finding]:
    """Several GPUs: of one kind, and linked alike?"""
    seen = tuple(one for one in seen if not one.gpu.fault)
    if len(seen) < 2:
        return
    kinds: dict[str, list[Visible]] = {}
    for one in seen:
        kinds.setdefault(f"{one.gpu.name} {one.slice.profile}" if one.slice else one.gpu.name, []).append(one)
    found = " and ".join(f"{len(of)} x {name}" for name, of in kinds.items())
    most = max(kinds.values(), key=len)
    # CUDA numbers the fastest first, nvidia-smi by bus: of different cards only the UUID says which one is meant
    fix = f"take those of one kind: export {VARIABLE}={','.join(one.uuid for one in most)}"
    yield judge(len(kinds) == 1, "GPUs of one kind", found, "one kind", fix, otherwise=Verdict.WARNING)
    links = [one.gpu.nvlinks for one in seen]
    if len(kinds) == 1 and any(links):
        alike = len(set(links)) == 1
        shown = f"{links[0]} active on each GPU" if alike else f"active by GPU: {', '.join(str(n or 0) for n in links)}"
        fix = "look at `nvidia-smi nvlink --status` and at the service nvidia-fabricmanager: NCCL may fall back to PCIe"
        yield judge(alike, "NVLink", shown, "the same on each", fix, otherwise=Verdict.WARNING)


def _cuda(subject: Subject) -> Finding:
    """The CUDA of libcuda: within one major version an older one runs programs of a newer toolkit."""
    cuda = subject.profile.cuda
    assert cuda is not None
    what, found = "driver's CUDA", subject.reading.cuda
    major = cuda.toolkit.partition(".")[0]
    needed = f"{cuda.toolkit}, or {major}.x with driver {cuda.driver} or newer"
    is_major = version_key(found)[0] >= int(major)
    host = replace(subject.host, machine=subject.profile.machines[0], glibc="")  # only the driver is judged
    if needs_compat(subject.profile, host, subject.architectures):
        return Finding(what, f"{found}; cuda-compat brings {cuda.toolkit}", needed, Verdict.OK)
    fits = not refusals(subject.profile, host, subject.architectures)
    if is_major and fits:
        older = version_key(found) < version_key(cuda.toolkit)
        shown = f"{found}: runs {cuda.toolkit} by minor-version compatibility" if older else found
        return Finding(what, shown, needed, Verdict.OK)
    if fits:  # the driver itself is new enough
        fix = "take the folder of the older libcuda.so.1 out of LD_LIBRARY_PATH: `ldconfig -p | grep libcuda` finds the driver's"
        return Finding(what, f"{found}, though the driver is {subject.host.driver}", needed, Verdict.REFUSED, fix)
    fix = f"update NVIDIA's driver to {cuda.driver} or newer, or ask what else would do: {subject.run('doctor --recommend')}"
    return Finding(what, found, needed, Verdict.REFUSED, fix)
