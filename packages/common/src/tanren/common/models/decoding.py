"""What every way to decode with a model needs: where a turn ends, and a pass that is fast for one token of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from tanren.common.attention.decoding import grouped_attention
from tanren.common.attention.packed import inference_attention
from tanren.common.bare_adapters import bare_adapters
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
    head: Any = model.get_output_embeddings()
    with ExitStack() as stack:
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
        stack.callback(hook.remove)
        if type(head) is torch.nn.Linear and head.weight.device.type == "cpu" and head.weight.dtype != torch.float32:
            vars(head)["forward"] = _linear32(head)
            stack.callback(vars(head).pop, "forward")
        yield


def _linear32(head: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a linear layer in float32, on a CPU."""
    weight, bias = head.weight.detach().float(), None if head.bias is None else head.bias.detach().float()
    if not torch.backends.mkldnn.is_available():
        return lambda x: functional.linear(x.float(), weight, bias)
    # oneDNN's product takes 12 ms for 24 rows of 49,152 words where torch's own for float32 takes 28 (an AMD EPYC).
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.float(), weight, bias, "none", [], "")
