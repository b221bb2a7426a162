"""What a run stands on: settings, data, weights, machine. It is recorded, and a resumed run must stand on the same."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tanren.common.config import dump_toml, flatten
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.run import RunDirectory, describe_environment
from tanren.sft.cli import COMMAND
from tanren.sft.plan import Plan

if TYPE_CHECKING:
    from tanren.common.attention import Choice
    from tanren.common.models.load import LoadedModel
    from tanren.sft.prepare import Prepared

# Settings that may differ between a run and its resumption: they do not touch the numbers.
# A parent may have been moved: its hash is compared, not its path.
MAY_DIFFER_ON_RESUME = re.compile(r"(output|tracking)\..*|checkpoint\.(every_steps|keep)|model\.parent")


def check_same_config(values: Mapping[str, Any], run: RunDirectory) -> None:
    """Refuse to resume with other settings: the result would be neither the old run nor a new one."""
    recorded, now = flatten(run.read_config()), flatten(tomllib.loads(dump_toml(values, {})))
    differing = [
        name
        for name in sorted(recorded.keys() | now.keys())
        if recorded.get(name) != now.get(name) and not MAY_DIFFER_ON_RESUME.fullmatch(name)
    ]
    if differing:
        told = "\n".join(f"  {name}: the run has {recorded.get(name)!r}, now {now.get(name)!r}" for name in differing)
        raise UserError(
            f"{run.path} cannot be resumed with other settings:\n{told}\nresume with the same recipe and flags (its config.toml is a recipe)"
        )


def describe_ground(
    plan: Plan, prepared: Prepared, attention: Choice, loaded: LoadedModel, template: str
) -> dict[str, Any]:
    """Return what a run stands on, as `environment.json` records it."""
    return describe_environment() | {
        "command": COMMAND.prog,
        "device": asdict(prepared.device),
        "attention": {"kernel": attention.kernel, "reason": attention.reason, "rejected": dict(attention.rejected)},
        "attention_proof": attention.proof,
        "model": loaded.provenance,
        "parents": [link.record(number) for number, link in enumerate(plan.parents(prepared.device.dtype), start=1)],
        "chat_template_hash": template,
        "samples_sha256": prepared.data.sha256(),
        "data": prepared.data.record(),
    }


def check_same_ground(run: RunDirectory, environment: Mapping[str, Any], console: Console) -> None:
    """Refuse to resume on other data or other weights; warn where only the numerics may part."""
    recorded = json.loads(run.environment.read_text(encoding="utf-8"))
    for name in ("samples_sha256", "model", "parents", "chat_template_hash"):
        if recorded[name] != environment[name]:
            raise UserError(
                f"{run.path} cannot be resumed: {name} was {recorded[name]!r}, now {environment[name]!r}; "
                "give it the data and the model that it began with, or start a new run"
            )
    for name in ("device", "attention", "packages", "cpu", "gpu"):
        if recorded.get(name) != environment.get(name):
            console.warn(
                f"resumed on other ground, so not bit for bit: {name} was {recorded.get(name)}, now {environment.get(name)}"
            )
