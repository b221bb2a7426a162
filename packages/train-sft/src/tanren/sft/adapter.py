"""The LoRA adapter: attached to the base model, and saved with what it was trained on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory, folder_written_aside
from tanren.common.workspace import sha256_of
from tanren.sft.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel

    from tanren.common.models.load import LoadedModel


def attach_lora(plan: Plan, loaded: LoadedModel) -> Any:
    """Wrap the model with a fresh adapter; its initialisation depends on the seed alone."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    lora = plan.config.lora
    set_seed(plan.config.seed)
    loaded.model.config.use_cache = False
    try:
        model = get_peft_model(
            loaded.model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise UserError(f"lora.target_modules {lora.target_modules!r}: {error}") from None
    # With a name, every checkpoint would ask the hub whether the vocabulary was resized; `save_adapter` names it.
    model.peft_config["default"].base_model_name_or_path = ""
    return model


def coverage_line(model: PeftModel) -> str:
    """Say how much of the model the adapter reaches: layers, and the share of parameters that is trained."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    adapted = sum(name.endswith(".lora_A") for name in modules)
    linear = sum(name.endswith("base_layer") or _is_plain_linear(name, module) for name, module in modules.items())
    trained = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in parameters.values())
    said = f"LoRA on {adapted} of {linear} linear layers: {trained:,} of {every:,} parameters are trained"
    # Experts that are fused into one tensor (experts x in x out) are no linear layers: all-linear passes them by.
    fused = sum(
        p.numel() for name, p in parameters.items() if p.dim() == 3 and "base_layer" not in name and "lora_" not in name
    )
    missed = f"; {fused:,} parameters of fused experts are not reached" if fused else ""
    routers = any(name.endswith((".gate.lora_A", ".router.lora_A")) for name in modules)
    caught = "; routers of experts are among them (name lora.target_modules to leave them alone)" if routers else ""
    return f"{said} ({100 * trained / every:.2f} %){missed}{caught}"


def _is_plain_linear(name: str, module: Any) -> bool:
    """Whether it is a linear layer of the base model without an adapter."""
    import torch

    return isinstance(module, torch.nn.Linear) and ".lora_" not in name and not name.endswith("base_layer")


def save_adapter(model: Any, run: RunDirectory, plan: Plan, loaded: LoadedModel, template: str) -> None:
    """Write the adapter with what it was trained on (the parent chain) beside it."""
    # The name that can be resolved again, not a folder of this machine.
    source = plan.source
    named = source.location if source.kind in ("hub", "folder") else source.name
    model.peft_config["default"].base_model_name_or_path = named
    if run.adapter.exists():  # this run's own, from before it was interrupted in its last evaluation
        shutil.rmtree(run.adapter)
    with folder_written_aside(run.adapter) as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        provenance = {
            "base_model": loaded.provenance,
            "parents": [],
            "adapter_sha256": sha256_of(folder / "adapter_model.safetensors"),
            "recipe": plan.config.name,
            "chat_template_hash": template,
        }
        run.write_json(folder / "provenance.json", provenance)
