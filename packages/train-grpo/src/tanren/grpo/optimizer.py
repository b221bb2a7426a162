"""AdamW over what is trained."""

from __future__ import annotations

from typing import Any

import torch

from tanren.common.optimizer import decayed_names
from tanren.grpo.config import GrpoConfig


def make_optimizer(model: Any, config: GrpoConfig) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe: matrices decay, norms and biases do not."""
    optim, decayed = config.optim, set(decayed_names(model))
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    groups = [
        {"params": [one for name, one in named.items() if name in decayed], "weight_decay": optim.weight_decay},
        {"params": [one for name, one in named.items() if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {"lr": optim.lr, "betas": (optim.beta1, optim.beta2)}
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, **settings, fused=model.device.type == "cuda")
    import bitsandbytes

    return bitsandbytes.optim.AdamW(  # type: ignore[no-any-return]
        groups, **settings, optim_bits=8, is_paged=optim.name.startswith("paged")
    )
