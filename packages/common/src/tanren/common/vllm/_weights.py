"""The weights of a model with an adapter as its checkpoint would have them, the adapter merged: one tensor at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch

from tanren.common.adapted import base_of

ADAPTER = "default"


def checkpoint_weights(model: Any, *, only: Collection[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and tensor of each weight, on the model's device, in the model's precision.

    What an adapter changes is merged in float32 and rounded once, as `tanren merge` does it; the model is not touched.
    `only`: these, as `adapted_names` names them. A tensor may be overwritten when the next one is asked for.
    """
    adapted, seen = _adapted(model), set()
    for name, weight in base_of(model).named_parameters(remove_duplicate=False):
        if "lora_" in name:  # lora_A, lora_B, lora_magnitude_vector
            continue
        plain = name.replace(".base_layer", "")
        layers = adapted.get(plain, [])
        if only is not None and plain not in only:
            continue
        if not layers and id(weight) in seen:  # one tensor for head and embeddings is written once
            continue
        seen.add(id(weight))
        values = _written_out(weight) if hasattr(weight, "quant_state") else weight.detach()
        if layers:
            values = _merged(layers, values)
        yield from _as_in_checkpoint(base_of(model), plain, values)


def adapted_names(model: Any) -> set[str]:
    """Return the names of the weights that an adapter changes; none for a model without one."""
    return set(_adapted(model))


def head_stands_apart(model: Any) -> bool:
    """Whether an adapter changes the output head or the embeddings alone, of a model that has one tensor for both."""
    base = base_of(model)
    parts = base.get_output_embeddings(), base.get_input_embeddings()
    weights = [getattr(part, "base_layer", part).weight for part in parts]
    return weights[0] is weights[1] and any(hasattr(part, "base_layer") for part in parts)


def _adapted(model: Any) -> dict[str, list[Any]]:
    """Return the layers that adapt each weight, by its name."""
    if base_of(model) is model:
        return {}
    from peft.tuners.lora import LoraLayer, ParamWrapper

    found: dict[str, list[Any]] = {}
    for name, module in base_of(model).named_modules():
        if isinstance(module, LoraLayer):
            weight = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            found.setdefault(f"{name}.{weight}".replace(".base_layer", ""), []).append(module)
    return found


def _merged(layers: list[Any], weight: torch.Tensor) -> torch.Tensor:
    """Return a weight with the updates of its layers, added in float32."""
    total = weight.to(torch.float32, copy=True)
    for layer in layers:
        if ADAPTER in layer.lora_variant:  # DoRA scales the weight itself
            total = layer.lora_variant[ADAPTER].merge_safe(layer, ADAPTER, total)
        else:
            total += layer.get_delta_weight(ADAPTER).view_as(total)
    return total.to(weight.dtype)


def _written_out(weight: Any) -> torch.Tensor:
    """Return the values of a weight that bitsandbytes keeps in 4 bits."""
    from tanren.common.nf4 import dequantise

    state = weight.quant_state
    values = torch.empty(state.shape, dtype=state.dtype, device=weight.device)
    dequantise(weight, values)
    return values


def _as_in_checkpoint(base: Any, name: str, values: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a weight under the names of the checkpoint: the library keeps some models' experts in one tensor, their files do not."""
    if ".experts." not in name or base.config.model_type == "gpt_oss":
        yield name, values
        return
    layer, kind = name.rsplit(".", 1)
    for number, expert in enumerate(values):
        if kind == "gate_up_proj":
            gate, up = expert.chunk(2, dim=0)
            yield f"{layer}.{number}.gate_proj.weight", gate
            yield f"{layer}.{number}.up_proj.weight", up
        else:
            yield f"{layer}.{number}.{kind}.weight", expert
