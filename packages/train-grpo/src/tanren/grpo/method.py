"""The model that is trained: the base as it is loaded, and what GRPO puts onto it."""

from __future__ import annotations

from typing import Any

from tanren.common.adapter import attach_lora
from tanren.common.attention import Choice
from tanren.common.attention.training import choose_training_attention
from tanren.common.config import AUTO
from tanren.common.console import Console
from tanren.common.coverage import say_coverage
from tanren.common.experts import choose_experts
from tanren.common.fused import choose_route
from tanren.common.models.load import LoadedModel
from tanren.common.models.start import load_start
from tanren.grpo.plan import Plan
from tanren.grpo.prepare import Prepared
from tanren.grpo.sharing import choose_sharing


def load_base(plan: Plan, prepared: Prepared, console: Console) -> tuple[LoadedModel, Choice]:
    """Load the model and choose how it attends in training; say both."""
    config = plan.config
    loaded = load_start(plan.source, prepared.device, config.model.quantisation, plan.parent, console)
    with console.phase("prove attention", config.train.attention):
        attention = choose_training_attention(loaded.model, config.train.attention)
    for line in attention.lines():
        console.line(line)
    return loaded, attention


def make_trainable(
    plan: Plan, prepared: Prepared, loaded: LoadedModel, attention: Choice, console: Console
) -> tuple[Any, bool]:
    """Attach the adapter, and choose how experts and layers are computed and whether a group shares its prompt; say all.

    Returns the model, and whether prompts are shared in training.
    """
    config, train = plan.config, plan.config.train
    assert train.gradient_checkpointing != AUTO, "settled before"
    with console.phase("attach LoRA", f"rank {config.lora.rank} on {config.lora.target_modules}"):
        model = attach_lora(loaded, config.lora, config.seed)
    say_coverage(model, config.lora, console)
    experts = choose_experts(model, train.experts)
    if experts is not None:
        console.line(experts.line())
    console.line(choose_route(model, train.layers, train.gradient_checkpointing, prepared.device.device).line())
    sharing = choose_sharing(model, train.share_prompts, attention)
    console.line(sharing.line())
    return model, sharing.shared
