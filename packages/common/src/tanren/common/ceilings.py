"""What a device can do at most: its memory bandwidth, its rate of matrix products, the time to launch a kernel."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from tanren.common.workspace import cache_folder


@dataclass(frozen=True)
class Ceilings:
    """The limits of one device."""

    device: str
    bandwidth_bytes_per_s: float
    """Bytes read and written in a second by a large copy."""
    matrix_flops_per_s: float
    """Floating-point operations in a second of a large product in the precision that models are trained in."""
    launch_seconds: float
    """Seconds from one small kernel to the next."""
    measured: str
    """When and with what they were measured, or where they were taken from."""


def ceilings_path(device_name: str) -> Path:
    """Return the file of a device's measured limits."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")
    return cache_folder() / "ceilings" / f"{slug}.json"


def read_ceilings(device_name: str) -> Ceilings | None:
    """Return the limits that were measured on this machine for a device of that name, if they were."""
    path = ceilings_path(device_name)
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return Ceilings(**{name: values[name] for name in asdict(Ceilings("", 0, 0, 0, ""))})
