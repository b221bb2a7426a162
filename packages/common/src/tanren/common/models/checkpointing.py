"""Activation checkpointing: what a layer keeps for its backward pass, and what it computes again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tanren.common.config import Checkpointing

# A product over fewer terms is memory-bound: computing it again costs no more than reading what was kept. LoRA's
# second product (over the rank) is one, and its result is as large as the layer's own.
LEAST_TERMS = 256


def enable_checkpointing(model: Any, checkpointing: Checkpointing) -> None:
    """Let a transformers model keep less than everything for the backward pass; results stay the same bit for bit.

    none: everything is kept. full: each layer's input, and the layer is computed again. selective: the results of
    large matrix products and of attention are kept; norms, rotary embeddings, activations are computed again
    (Korthikanti et al. 2022, arXiv:2205.05198, chose other operations by the same rule: large and cheap ones).
    """
    if checkpointing == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if checkpointing == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy(_kept_operations(model)))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _kept_operations(model: Any) -> frozenset[Any]:
    aten = torch.ops.aten
    kept = {
        aten.mm.default,
        aten.addmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._flash_attention_forward.default,
    }
    # Experts with a bias add it in place to the product, which then is not what would be computed again.
    if not any(getattr(module, "has_bias", False) for module in model.modules()):
        kept.add(aten._grouped_mm.default)
    # Kernels that are operations of their own are there only where their module was imported.
    for namespace, name in (("torch_attn", "_varlen_attn"), ("tanren_plan", "flash")):
        operation = getattr(getattr(torch.ops, namespace), name, None)
        if operation is not None:
            kept.add(operation.default)
    return frozenset(kept)


def _policy(kept: frozenset[Any]) -> Any:
    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        del context, kwargs
        if operation not in kept:
            return CheckpointPolicy.PREFER_RECOMPUTE
        if args and isinstance(args[-1], str) and args[-1] == "flash_attention_4":
            # In a plan. The real kernel is no operation of torch's, and so cannot be kept: it runs again.
            return CheckpointPolicy.PREFER_RECOMPUTE
        if operation is torch.ops.aten.mm.default and args[0].shape[-1] < LEAST_TERMS:
            return CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE

    return policy
