"""What every way to decode with a model needs: where a turn ends, and a pass that is fast for one token of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from tanren.common.attention.decoding import grouped_attention
from tanren.common.attention.packed import inference_attention
from tanren.common.config import AUTO

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends a turn: the tokenizer's, and those of the model's own generation settings."""
    settings = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = {tokenizer.eos_token_id, *(settings if isinstance(settings, list) else [settings])}
    return sorted(token for token in ids if token is not None)


@contextmanager
def decoding(model: PreTrainedModel, attention: str = AUTO) -> Iterator[None]:
    """Make a model ready to decode, and give it back as it was; its weights must not change meanwhile."""
    training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            inference_attention(model, attention),
            grouped_attention(model),
            full_head(model),
            bare_adapters(model),
        ):
            yield
    finally:
        model.train(training)


@contextmanager
def full_head(model: PreTrainedModel) -> Iterator[None]:
    """Give the output head its last positions as one block of memory, and on a CPU have a plain one compute in float32.

    A slice of the hidden states, as generation passes it, makes torch's CPU bfloat16 product copy the head once for each
    row: measured with 60 prompts of 100 tokens 3.5 s and 3 GiB, against 0.02 s (benchmarks/LOG.md). Rounded to bfloat16, logits
    above 16 are an eighth of a nat apart: words tie that do not, and what training computes of them is elsewhere by as much.
    """
    head = model.get_output_embeddings()
    with ExitStack() as stack:
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
        stack.callback(hook.remove)
        if type(head) is torch.nn.Linear and head.weight.device.type == "cpu" and head.weight.dtype != torch.float32:
            weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()
            vars(head)["forward"] = lambda x: functional.linear(x.float(), weight, bias)
            stack.callback(head.__dict__.pop, "forward")
        yield


@contextmanager
def bare_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Compute LoRA's products alone, in the model's precision, where the library's layer does nothing else either.

    Its layer checks, casts to float32 and back, and adds in steps: 0.4 ms of the host's time for each of 210 layers and every token,
    as much as all the rest of SmolLM2's pass (benchmarks/LOG.md). Other layers (DoRA, several adapters, merged ones) stay as they are.
    """
    with ExitStack() as stack:
        for module in model.modules():
            bare = _bare(module, model.dtype)
            if bare is not None:
                module.forward = bare
                stack.callback(module.__dict__.pop, "forward")
        yield


def _bare(module: Any, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what a plain LoRA layer computes, its factors in `dtype`, or None for any other module."""
    if not hasattr(module, "lora_A"):  # PEFT is not imported for a model without an adapter
        return None
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or module.disable_adapters or module.merged:
        return None
    layer: Any = module  # whose parts are Any to the type checker, too
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or layer.lora_variant:
        return None
    base, scale = layer.base_layer, float(layer.scaling[active[0]])
    factors = layer.lora_A[active[0]], layer.lora_B[active[0]]
    if any(one.bias is not None for one in factors):
        return None
    down, up = (one.weight.detach().to(dtype) for one in factors)

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = base(x)
        low = functional.linear(x, down).flatten(0, -2)
        return torch.addmm(result.flatten(0, -2), low, up.T, alpha=scale).view_as(result)

    return forward
