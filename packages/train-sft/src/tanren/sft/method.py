"""What a run trains, by train.method and train.engine: how the base is loaded, attends, is made trainable, and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.adapter import attach_lora, save_adapter
from tanren.common.attention import Choice
from tanren.common.attention.training import choose_training_attention
from tanren.common.console import Console
from tanren.common.coverage import say_coverage
from tanren.common.fp8 import first_rows
from tanren.common.models.load import LoadedModel
from tanren.common.models.start import load_start
from tanren.common.run import RunDirectory
from tanren.sft.full import FullTrainer, save_full, train_all_weights
from tanren.sft.plan import Plan
from tanren.sft.trainer import SftTrainer
from tanren.sft.unsloth_engine import attach_with_unsloth, load_with_unsloth, prove_packing
from tanren.sft.unsloth_trainer import UnslothTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.chat import Sample
    from tanren.common.models.device import DevicePlan


def load_base(plan: Plan, device: DevicePlan, samples: Sequence[Sample], console: Console) -> LoadedModel:
    """Load the model that is trained, with its parents merged and as the recipe quantises it, and say what is to be said.

    What fp8 costs is measured on the first `samples`. Raises UserError where the parents were trained on another base.
    """
    quantisation = plan.config.model.quantisation
    if plan.config.train.engine == "unsloth":
        with console.phase("load model", plan.source.name):
            loaded = load_with_unsloth(plan, device)
        for note in loaded.notes:
            console.line(note)
    else:
        batch = first_rows(samples) if quantisation == "fp8" else None
        loaded = load_start(plan.source, device, quantisation, plan.parent, console, batch)
    if loaded.cost:
        console.record("quantisation_cost", dict(loaded.cost))
    return loaded


def choose_attention(plan: Plan, loaded: LoadedModel, console: Console) -> Choice:
    """Return the kernel of training, proven on this model, and say why it was chosen."""
    named = plan.config.train.attention
    with console.phase("prove attention", named):
        if plan.config.train.engine == "unsloth":
            choice = prove_packing(loaded.model, str(loaded.model.device))
        else:
            choice = choose_training_attention(loaded.model, named)
    for line in choice.lines():
        console.line(line)
    return choice


def make_trainable(plan: Plan, loaded: LoadedModel, console: Console) -> tuple[Any, type[SftTrainer]]:
    """Return what is trained, and the trainer that trains it; say what that reaches.

    Raises UserError where an adapter does not reach what was asked for.
    """
    if plan.config.train.method == "full":
        return train_all_weights(loaded.model, console), FullTrainer
    lora = plan.config.lora
    with console.phase("attach LoRA", f"rank {lora.rank} on {lora.target_modules}"):
        unsloth = plan.config.train.engine == "unsloth"
        model = attach_with_unsloth(plan, loaded) if unsloth else attach_lora(loaded, lora, plan.config.seed)
    say_coverage(model, lora, console)
    return model, UnslothTrainer if unsloth else SftTrainer


def save_trained(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    run: RunDirectory,
    plan: Plan,
    loaded: LoadedModel,
    template: str,
    device: DevicePlan,
    console: Console,
) -> Path:
    """Write what was trained, with what it was trained on; return its folder."""
    saved = run.model if plan.config.train.method == "full" else run.adapter
    with console.phase(f"save {saved.name}", str(saved)):
        if plan.config.train.method == "full":
            save_full(model, tokenizer, run, plan, loaded, template, device)
        else:
            save_adapter(
                model,
                run,
                source=plan.source,
                loaded=loaded,
                parents=plan.parents(device.dtype),
                recipe=plan.config.name,
                rank=plan.config.lora.rank,
                template=template,
                device=device,
            )
    return saved
