"""What a run ran on: recorded at its start, so that a number can be reproduced or explained."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tanren.common.environments import EnvironmentsError, cpu_model, profile_of
from tanren.common.workspace import sha256_of, workspace_root

# The packages whose versions decide numerics and formats.
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "mlflow",
    "trl",
    "datasets",
    "bitsandbytes",
    "unsloth",
)


def describe_environment() -> dict[str, Any]:
    """Return environment name, lock hashes, packages, machine and git commit. No secret, no user name, no host name."""
    root = workspace_root()
    name = os.environ.get("PIXI_ENVIRONMENT_NAME", "none (started outside pixi and pixiw)")
    return {
        "environment": name,
        "locks": _locks(root, name),
        "packages": {package: found for package in PACKAGES if (found := _version(package))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "git_commit": _git_commit(root),
    } | _gpu()


def _locks(root: Path | None, name: str) -> dict[str, str]:
    if root is None:
        return {}
    try:
        folder = profile_of(root, name).folder  # `eval` installs the lock of `train`, and so on
    except EnvironmentsError:
        return {}
    candidates = [root / "pixi.lock", *sorted(folder.glob("*.lock"))]
    return {str(path.relative_to(root)): sha256_of(path) for path in candidates if path.is_file()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit(root: Path | None) -> str | None:
    if root is None:
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _gpu() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # asked only where it is loaded already: the import takes seconds
    if torch is None or not torch.cuda.is_available():
        return {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }
