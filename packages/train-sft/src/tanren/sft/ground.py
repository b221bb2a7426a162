"""What a run stands on: settings, data, weights, machine. It is recorded, and a resumed run must stand on the same."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tanren.common.run import describe_environment
from tanren.sft.command import COMMAND
from tanren.sft.plan import Plan

if TYPE_CHECKING:
    from tanren.common.attention import Choice
    from tanren.common.models.load import LoadedModel
    from tanren.sft.prepare import Prepared

# Settings that may differ between a run and its resumption: they do not touch the numbers.
# A parent may have been moved: its hash is compared, not its path.
MAY_DIFFER_ON_RESUME = re.compile(r"(output|tracking)\..*|checkpoint\.(every_steps|keep)|model\.parent")
SAME_ON_RESUME = ("samples_sha256", "model", "parents", "chat_template_hash")


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
