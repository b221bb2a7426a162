"""The generated page docs/reference/environments.md: machines, GPUs and key packages, from the profiles and the locks."""

from __future__ import annotations

import sys
from pathlib import Path

from tanren.common.environments import Architectures, Profile, read_architectures, read_profiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "envs"))

import lock_format  # noqa: E402 (after the path)

# What decides which other packages fit.
KEY_PACKAGES = (
    *("torch", "triton", "vllm", "transformers", "trl", "peft", "accelerate", "datasets"),
    *("liger-kernel", "bitsandbytes", "unsloth", "flash-attn-4", "nvidia-cutlass-dsl", "mlflow"),
)


def environments_page(made: str) -> str:
    """Return the page; `made` is the line that says who made it."""
    profiles, architectures = read_profiles(ROOT), read_architectures(ROOT)
    lines = ["# Reference: environments", "", made, "", "[What they are, and how to change them](../environments.md)."]
    lines += ["", "## Machines", "", *machines(profiles)]
    lines += ["", "## GPUs", "", *gpus(profiles, architectures)]
    lines += ["", "## Key packages", "", *packages(profiles)]
    return "\n".join(lines) + "\n"


def machines(profiles: tuple[Profile, ...]) -> list[str]:
    """One row per lock: where it installs."""
    rows = [
        "| Environment | Machine | glibc | Python | CUDA toolkit | Least driver | Why |",
        "|---|---|---|---|---|---|---|",
    ]
    for profile in profiles:
        cuda = profile.cuda
        cells = [
            ", ".join(f"`{name}`" for name in profile.environments),
            ", ".join(profile.machines),
            f"≥ {profile.glibc}" if profile.glibc else "any",
            profile.python,
            cuda.toolkit if cuda else "none",
            (cuda.driver + (" (older on data-centre GPUs, by cuda-compat)" if cuda.compat else "")) if cuda else "none",
            profile.why,
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def gpus(profiles: tuple[Profile, ...], architectures: Architectures) -> list[str]:
    """One row per architecture: what it needs and which environment serves it."""
    head = "| GPU | Compute capability | ptxas calls it | Least toolkit | That toolkit's driver | Environments |"
    rows = [head, "|---|---|---|---|---|---|"]
    for known in architectures.known:
        serving = [
            f"`{profile.environments[0]}` ({', '.join(profile.machines)})"
            for profile in profiles
            if known.compute_capability in profile.compute_capabilities
        ]
        driver = architectures.least_driver.get(known.least_toolkit, "older than any environment's")
        cells = [
            ", ".join(known.gpus),
            known.compute_capability,
            f"`{known.sm}`",
            known.least_toolkit,
            driver,
            ", ".join(serving),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def packages(profiles: tuple[Profile, ...]) -> list[str]:
    """One row per key package: its version in each lock."""
    locks = {p.name: lock_format.parse((p.folder / "requirements.lock").read_text(encoding="utf-8")) for p in profiles}
    versions = {name: {entry.name: entry.version for entry in entries} for name, entries in locks.items()}
    rows = ["| Package | " + " | ".join(f"`{name}`" for name in locks) + " |", "|---" * (len(locks) + 1) + "|"]
    rows += [
        f"| {key} | " + " | ".join(found.get(key, "") for found in versions.values()) + " |" for key in KEY_PACKAGES
    ]
    return [*rows, "| all packages | " + " | ".join(str(len(found)) for found in versions.values()) + " |"]
