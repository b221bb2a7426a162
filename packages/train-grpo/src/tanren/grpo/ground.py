"""What a run stands on: settings, prompts, weights, machine. It is recorded, and a resumed run must stand on the same."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tanren.common.run import describe_environment
from tanren.grpo.command import COMMAND
from tanren.grpo.prompts import prompts_sha256

if TYPE_CHECKING:
    from tanren.common.attention import Choice
    from tanren.common.models.load import LoadedModel
    from tanren.grpo.plan import Plan
    from tanren.grpo.prepare import Prepared

MAY_DIFFER_ON_RESUME = re.compile(r"(output|tracking)\..*|checkpoint\.(every_steps|keep)|model\.parent")
"""Settings that do not touch the numbers; a parent may have been moved: its hash is compared, not its path."""
SAME_ON_RESUME = ("prompts_sha256", "model", "parents", "chat_template_hash", "structured")


def describe_ground(
    plan: Plan, prepared: Prepared, attention: Choice, loaded: LoadedModel, template: str
) -> dict[str, Any]:
    """Return what a run stands on, as `environment.json` records it."""
    parents = plan.parents(prepared.device.dtype)
    return describe_environment() | {
        "command": COMMAND.prog,
        "device": asdict(prepared.device),
        "engine": asdict(prepared.engine),
        "attention": {"kernel": attention.kernel, "reason": attention.reason, "rejected": dict(attention.rejected)},
        "attention_proof": attention.proof,
        "model": loaded.provenance,
        "parents": [link.record(number) for number, link in enumerate(parents, start=1)],
        "chat_template_hash": template,
        "prompts_sha256": prompts_sha256(prepared.prompts),
        "structured": None if plan.structured is None else asdict(plan.structured),
    }
