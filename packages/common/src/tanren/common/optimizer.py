"""The optimizer: which weights decay, and where 8-bit states can be had."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from tanren.common.config import OptimConfig
from tanren.common.errors import UserError

if TYPE_CHECKING:
    import torch

EIGHT_BIT = ("adamw_8bit", "paged_adamw_8bit")
"""As bitsandbytes' are called here and in transformers."""


def check_optimizer(optim: OptimConfig, device: str) -> None:
    """Raise UserError where the optimizer cannot run on this device or is not installed."""
    if optim.name not in EIGHT_BIT:
        return
    if device != "cuda":
        raise UserError(f"optim.name = {optim.name} needs a CUDA device, and this run is on the {device}; write adamw")
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"optim.name = {optim.name} needs bitsandbytes, which is not installed here: start it in an environment for "
            "NVIDIA GPUs (./pixiw run -e train ...), or write adamw"
        )


def decayed_names(model: torch.nn.Module) -> list[str]:
    """Return the weights that weight decay shrinks: trained matrices, the A and B of an adapter among them.

    Norms, biases (fused experts have theirs as a matrix) and embeddings are none, nor is a head that is tied to them.
    The library's rule lets embeddings decay, and a word that no sample holds would shrink to nothing.
    """
    import torch

    embeddings = {
        id(weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters()
    }
    return [
        name
        for name, weight in model.named_parameters()
        if weight.dim() >= 2 and id(weight) not in embeddings and "bias" not in name.rpartition(".")[2]
    ]
