"""What a device can do at most, as measured on it: the limit against which speeds are reported.

`tanren doctor --deep` measures and writes them, one file a device; planner and speed reports read them. No torch here.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tanren.common.environments import cpu_model
from tanren.common.errors import UserError
from tanren.common.workspace import cache_folder


@dataclass(frozen=True)
class Ceilings:
    """The limits of one device."""

    device: str
    """Its name, as torch gives it; of the CPU see `cpu_name`."""
    bandwidth_bytes_per_s: float
    """Of its memory: bytes read and written by a large copy."""
    matrix_flops_per_s: float
    """Of a large product of matrices in `dtype`; a multiplication and an addition are two."""
    launch_seconds: float
    """Of one tiny operation among many, one after another."""
    measured: str
    """When (ISO 8601, UTC); of what was not measured, where it is from."""
    dtype: str = ""
    """Precision of the matrices: 'bfloat16'."""
    driver: str = ""
    """NVIDIA's; '' without one."""
    torch: str = ""
    """Version of torch."""


def read_ceilings(device: str) -> Ceilings | None:
    """Return what was measured on a device of this name on this machine, None where nothing was.

    Raises UserError for a file that holds something else.
    """
    path = ceilings_file(device)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = Ceilings(**json.loads(text))
    except (ValueError, TypeError) as fault:
        raise UserError(
            f"{path}: not the measurement of a device: {fault}: "
            "delete it, and measure again with ./pixiw run doctor --deep"
        ) from fault
    return found if found.device == device else None


def write_ceilings(ceilings: Ceilings) -> Path:
    """Write a measurement in place of the last one of the device, and return its file: no reader sees half of it."""
    path = ceilings_file(ceilings.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".partial", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(ceilings), file, indent=2)
        file.write("\n")
    Path(aside).chmod(0o644)  # mkstemp makes it private; the cache may be shared
    return Path(aside).replace(path)


def ceilings_file(device: str) -> Path:
    """Return the file of a device's measurement."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return cache_folder() / "ceilings" / f"{slug}.json"


def cpu_name() -> str:
    """Return the name under which this CPU is measured: its model, and how many of its threads this process may use."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_model()}, {threads} threads"
