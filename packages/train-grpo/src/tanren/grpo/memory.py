"""The memory of a run: what a recipe leaves to the planner is chosen before the weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tanren.common.console import Console
from tanren.common.models.device import DevicePlan
from tanren.common.plan.packed import open_settings_of
from tanren.common.plan.settle import recorded_choice, settle
from tanren.common.run import RunDirectory
from tanren.grpo.engines import EngineChoice
from tanren.grpo.plan import Plan
from tanren.grpo.planner import job_for
from tanren.grpo.prompts import Prompt


def settle_memory(
    plan: Plan, prompts: Sequence[Prompt], engine: EngineChoice, device: DevicePlan, console: Console
) -> Plan:
    """Return the plan with nothing left open; completions are taken as long as they may be, prompts as they are.

    Raises MachineError with the cheapest changes where no choice fits.
    """
    open_settings = open_settings_of(plan.loaded.values())
    if not open_settings:
        return plan
    longest = max(len(prompt.token_ids) for prompt in prompts)
    loaded = plan.loaded.with_values({"rollout.max_prompt_tokens": longest}, "the prompts")
    chosen, _ = settle(
        open_settings,
        lambda target: job_for(loaded, plan.source, target, colocated=engine.name == "vllm"),
        device,
        console,
    )
    return replace(plan, loaded=plan.loaded.with_values(chosen, "plan"))


def take_recorded(plan: Plan, run: RunDirectory) -> Plan:
    """Return the plan with what a run's own plan chose: a resumed run does not choose again."""
    chosen = recorded_choice(run, open_settings_of(plan.loaded.values()))
    return replace(plan, loaded=plan.loaded.with_values(chosen, "plan"))
