"""Proofs become rows: each is asked of a child, its reply judged, and a new child started after a fault."""

from __future__ import annotations

import io
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tanren.common.doctor._explain import read_log
from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._subject import Subject
from tanren.common.doctor.deep._asking import GRACE, Reply, Worker
from tanren.common.doctor.deep._probe import Probe, ProbeResult
from tanren.common.workspace import cache_folder

NEEDED = "it runs, and its result is right"
SHOWN = 300  # characters of a fault


def prove(
    subject: Subject, probes: Iterable[Probe], variables: Mapping[str, str]
) -> Iterator[tuple[Finding, ProbeResult | None]]:
    """Yield each proof's row, with its result, as soon as it is known.

    `variables` come on top of the subject's for the children; {folder} in their values is a temporary folder of theirs.
    """
    waiting, worker = deque(probes), None
    with tempfile.TemporaryDirectory(prefix="tanren-doctor-", ignore_cleanup_errors=True) as name:
        own = {key: value.format(folder=name) for key, value in variables.items()}
        try:
            while waiting:
                probe = waiting.popleft()
                worker = worker or Worker({**subject.variables, "HF_HUB_OFFLINE": "1", **own})
                reply = worker.ask(probe)
                yield as_finding(probe, reply), reply.result
                if reply.result is None:
                    worker.end()
                    worker = None
                    if probe.gate and waiting:
                        yield _not_tried(probe, waiting), None
                        return
                elif probe.for_each:
                    waiting.extendleft(reversed([probe.for_each(one) for one in reply.result.names]))
            if worker:
                worker.end(GRACE)
                worker = None
        finally:
            if worker:
                worker.end()


def as_finding(probe: Probe, reply: Reply) -> Finding:
    """Judge a reply: ok where it has a result and every error is within its limit."""
    if reply.result is None:
        return _fault(probe, reply)
    result = reply.result
    shown = [f"{one.what} {one.error:.1e}" for one in result.comparisons]
    limits = [f"{one.what} {one.limit:.2g}" for one in result.comparisons]
    found = "; ".join([result.found, *([f"error: {', '.join(shown)}"] if shown else []), _times(reply, result)])
    needed = f"error at most: {', '.join(limits)}" if limits else NEEDED
    return judge(all(one.good for one in result.comparisons), probe.what, found, needed, probe.fix)


def as_time(seconds: float) -> str:
    """Return a duration with its unit: '3.2 s', '812 ms', '4.1 us'."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            value = seconds * factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{seconds * 1e6:.1f} us"


def _times(reply: Reply, result: ProbeResult) -> str:
    if result.first_seconds is None or result.seconds is None:
        return as_time(reply.seconds)
    return f"{as_time(reply.seconds)} (first run {as_time(result.first_seconds)}, then {as_time(result.seconds)})"


def _fault(probe: Probe, reply: Reply) -> Finding:
    """What was raised, and where all that was printed lies; a failure that is known by its text has its own fix."""
    raised = next((line.strip() for line in reply.fault.splitlines() if line.strip()), "no word")[:SHOWN]
    where = f"{as_time(reply.seconds)}; log: {_write_log(probe, reply)}"
    for text in (reply.fault, reply.text):  # what it died of, before what it said on the way
        for known in read_log(io.BytesIO(text.encode())).explanations:
            return Finding(probe.what, f"{raised} ({known.what}); {where}", NEEDED, Verdict.REFUSED, known.fix)
    return Finding(probe.what, f"{raised}; {where}", NEEDED, Verdict.REFUSED, probe.fix)


def _write_log(probe: Probe, reply: Reply) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", probe.what.lower()).strip("-")
    path = cache_folder() / "doctor" / f"{slug}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{reply.text}\n{reply.fault}\n", encoding="utf-8")
    return path


def _not_tried(gate: Probe, waiting: Iterable[Probe]) -> Finding:
    names = ", ".join(probe.what for probe in waiting)
    fix = f"put {gate.what} right first"
    return Finding(f"all after {gate.what}", f"not tried: {names}", f"{gate.what} first", Verdict.UNKNOWN, fix)
