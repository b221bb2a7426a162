"""Attention over packed samples, as transformers calls it: every sample attends to itself alone, nothing is padded.

transformers' own kernels tell packed samples apart only under names that they know; others would attend across
samples with no word said. So each kernel is registered under a name of its own here (`registered_name`), together with
a mask function that refuses padding.

Samples lie end to end in one row. `query` is (1, heads, tokens, head size), `key` and `value` (1, key-value heads,
tokens, head size). The lengths of the samples come by `packing_arguments`, through the model's keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tanren.common.attention._by_sample import eager_by_sample, sdpa_by_sample
from tanren.common.attention._choice import KERNELS
from tanren.common.attention._flash import flash_attention_2, flash_attention_4, varlen
from tanren.common.attention._packing import Packing, Scores
from tanren.common.attention._select import generation_kernel
from tanren.common.attention._traits import AttentionTraits, traits_of
from tanren.common.config import AUTO

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX = "tanren_"
_COMPUTE: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packing, Scores], torch.Tensor]] = {
    "flash_attention_4": flash_attention_4,
    "flash_attention_2": flash_attention_2,
    "varlen": varlen,
    "sdpa": sdpa_by_sample,
    "eager": eager_by_sample,
}
assert set(_COMPUTE) == set(KERNELS)


def registered_name(kernel: str) -> str:
    """Return the name under which transformers finds a kernel: `model.set_attn_implementation(name)`.

    The words "flash" and "sdpa" in a name would make transformers ask whether the model supports its own kernels.
    """
    return _PREFIX + {"flash_attention_4": "fa4", "flash_attention_2": "fa2", "sdpa": "by_sample"}.get(kernel, kernel)


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the model's present attention keeps packed samples apart."""
    return str(model.config._attn_implementation).startswith(_PREFIX)


def packing_arguments(
    lengths: Sequence[int], device: torch.device | str, follows: Sequence[bool] = ()
) -> dict[str, Any]:
    """Return the keyword arguments of the model's forward pass that say where each packed sample ends.

    `follows`: of each sample, whether it goes on from the last one before it that does not, as completions do from their prompt.
    Only kernels without a `sharing_fault` take those.
    """
    return {"packing": Packing.of(lengths, device, follows)}


def sharing_fault(kernel: str, traits: AttentionTraits) -> str | None:
    """Return why a kernel cannot have samples go on from another one in a model of these traits; None where it can."""
    if kernel in ("sdpa", "eager"):
        return None
    if kernel not in ("flash_attention_4", "varlen"):
        return f"{kernel} has no such pass"
    if traits.windows or traits.sinks:
        return f"{kernel} cannot do it with {'sliding windows' if traits.windows else 'attention sinks'}"
    return None


def attend(
    kernel: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scores: Scores,
) -> torch.Tensor:
    """Attend causally within each sample; returns (1, tokens, heads, value size)."""
    assert (1, packing.tokens) == (query.shape[0], query.shape[2]), (query.shape, packing.lengths)
    return _COMPUTE[kernel](query, key, value, packing, scores)


@contextmanager
def inference_attention(model: PreTrainedModel, named: str = AUTO) -> Iterator[str]:
    """Generate with an attention that knows padding and caches (`generation_kernel`), whatever training uses."""
    before = model.config._attn_implementation
    kernel = generation_kernel(traits_of(model.config), named)
    # A model that keeps its own attention in training (Choice.packs False) keeps it here too, unless one was named.
    changes = (is_packed(model) or named != AUTO) and before != kernel
    if changes:
        model.set_attn_implementation(kernel)
    try:
        yield kernel if changes else str(before)
    finally:
        if changes:
            model.set_attn_implementation(before)


def _interface(
    kernel: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One kernel as transformers calls it; returns (1, tokens, heads, value size)."""
    del module
    assert attention_mask is None, "packed attention takes the samples' lengths, not a mask"
    assert packing is not None, "packed attention needs the samples' lengths: packing_arguments() gives them"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = Scores(scale, sliding_window or 0, softcap or 0.0, s_aux, dropout)
    return attend(kernel, query, key, value, packing, scores), None


def _no_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> None:
    """Make no mask; a padded batch is refused, for these kernels would read its padding as text."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError("packed attention attends to samples laid end to end; found a padded batch: use 'sdpa' for it")


for _kernel in KERNELS:
    AttentionInterface.register(registered_name(_kernel), partial(_interface, _kernel))
    AttentionMaskInterface.register(registered_name(_kernel), _no_mask)
