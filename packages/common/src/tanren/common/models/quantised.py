"""Models whose frozen linear layers are kept in 4 or 8 bits by bitsandbytes, and checkpoints that are stored quantised."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from tanren.common.config import Quantisation
from tanren.common.environments import environments_with_cuda
from tanren.common.errors import UserError
from tanren.common.workspace import workspace_root

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from tanren.common.fp8 import Quantised

MODULE = "bitsandbytes"
MXFP4 = "mxfp4"
BITS = {"nf4": 4, "int8": 8}


def require_bitsandbytes(quantisation: Quantisation) -> None:
    """Raise UserError where `quantisation` needs bitsandbytes and it is not installed. Imports nothing heavy."""
    if quantisation in ("none", "fp8") or importlib.util.find_spec(MODULE) is not None:
        return
    names = environments_with_cuda(workspace_root())
    where = f"the environments {', '.join(names)} have it (pixi run -e {names[0]} ...)" if names else "install it"
    raise UserError(
        f"model.quantisation = {quantisation} needs {MODULE}, which is not installed here; {where}, "
        "or leave the weights as they are with --model.quantisation none"
    )


def quantising(quantisation: Quantisation, dtype: torch.dtype) -> Any:
    """Return transformers' settings for frozen linear layers in 4 or 8 bits that compute in `dtype`.

    The outliers of int8 stay in 16 bits as in the paper (6.0, arXiv:2208.07339).
    """
    from transformers import BitsAndBytesConfig

    if quantisation == "int8":
        # It tells at every product that inputs are rounded to float16 first; `quantised_line` says it once.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_trainable(model: PreTrainedModel) -> None:
    """Keep 4-bit layers in the form through which gradients pass.

    On a CPU with bfloat16 products bitsandbytes 0.50 packs a layer anew at its first pass outside training, for a product
    that has no backward pass; from then on gradients end there, with a warning from torch and no error.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def quantised_line(model: PreTrainedModel, quantisation: Quantisation) -> str:
    """Say what is kept in fewer bits, and what is not.

    Raises UserError where that is nothing.
    """
    import bitsandbytes as bnb

    kind = {"nf4": bnb.nn.Linear4bit, "int8": bnb.nn.Linear8bitLt}[quantisation]
    layers = sum(isinstance(module, kind) for module in model.modules())
    if not layers:
        raise UserError(
            f"model.quantisation = {quantisation} reaches no linear layer of {type(model).__name__}; leave it at none"
        )
    fused = sum(weight.dim() == 3 for weight in model.parameters())
    experts = f", {fused} fused tensors of experts" if fused else ""
    dtype = str(model.dtype).removeprefix("torch.")
    products = "; on a GPU their inputs are rounded to float16, then to 8 bits" if quantisation == "int8" else ""
    return (
        f"{quantisation}: {layers} linear layers in {BITS[quantisation]} bits; embeddings, norms, output head{experts} in "
        f"{dtype}{products}"
    )


def fp8_line(model: PreTrainedModel, made: Quantised, device: str) -> str:
    """Say what is kept in 8-bit floating point, and what is not."""
    fused = sum(weight.dim() == 3 for weight in model.parameters())
    experts = f", {fused} fused tensors of experts" if fused else ""
    stay = f", {made.left} more linear layers" if made.left else ""
    dtype = str(model.dtype).removeprefix("torch.")
    slow = "; a CPU computes the same numbers, slowly" if device == "cpu" else ""
    return (
        f"fp8: {made.layers} linear layers in 8 bits (float8_e4m3fn, one scale for each output), their inputs and gradients rounded token "
        f"by token (proven: products {made.off:.1e} from exact ones); embeddings, norms, output head{experts}{stay} in {dtype}{slow}"
    )


def stored_quantisation(config: PreTrainedConfig) -> str | None:
    """Return in which quantised format a checkpoint is stored, by its configuration: mxfp4, fp8, ...; None if in none."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    return str(getattr(method, "value", method))


def dequantising(name: str, stored: str, quantisation: Quantisation) -> Any:
    """Return transformers' settings that turn a stored format into the 16 or 32 bits that training works on.

    Raises UserError where that cannot be, or is not what the recipe asks for.
    """
    if stored != MXFP4:
        raise UserError(
            f"the checkpoint {name} is stored as {stored}, and only {MXFP4} is turned back into weights that can be trained; name "
            "the 16-bit checkpoint of this model (to train on 4-bit weights: model.quantisation = nf4)"
        )
    if quantisation != "none":
        raise UserError(
            f"model.quantisation = {quantisation} has no place on {name}: it is stored as {MXFP4} and dequantised for training, and "
            "its experts, nearly all of its weights, would stay in 16 bits anyway; leave model.quantisation at none"
        )
    from transformers.utils.quantization_config import Mxfp4Config

    # On a CPU it says that inference would be dequantised, which is what is asked for here.
    logging.getLogger("transformers.quantizers.quantizer_mxfp4").setLevel(logging.ERROR)
    return Mxfp4Config(dequantize=True)
