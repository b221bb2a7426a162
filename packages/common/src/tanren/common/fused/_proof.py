"""Fused layers held against the library's on the model itself: the last hidden states and the adapters' gradients."""

from __future__ import annotations

from typing import Any

import torch

from tanren.common.adapted import adapters_at_work
from tanren.common.attention.packed import packing_arguments
from tanren.common.distances import apart
from tanren.common.fp8 import unrounded_inputs
from tanren.common.fused._model import FusedModel, NotFusableError

LARGEST_WINDOW = 1024
"""Tokens: the proof reaches beyond smaller sliding windows; beyond larger ones it would not fit beside the weights."""
LIMITS = {torch.float32: (1e-3, 1e-2), torch.bfloat16: (1e-1, 3e-1)}
"""Of ||fused - library's|| / ||library's||: of the hidden states, and of half of the gradients. Both ways round tens of layers
apart: in bfloat16 they end 1e-2 to 5e-2 and 5e-2 to 1e-1 from each other, and as far from float32; a wrong formula near 1."""


def prove(model: Any, fused: FusedModel) -> str:
    """Return how far the two ways are from each other, in words. Raises NotFusableError where that is too far.

    Products with fp8 weights take their inputs unrounded meanwhile; with rounded ones they are proven when the model is loaded.
    """
    device = model.device
    windows = [window for window in fused.windows if window <= LARGEST_WINDOW]
    lengths = (max(windows, default=28) + 9, 20)
    vocabulary = int(model.get_base_model().config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (1, sum(lengths)), generator=generator).to(device)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    backbone = model.get_base_model().base_model
    with adapters_at_work(model) as adapters, unrounded_inputs():
        library = backbone(
            input_ids=tokens, position_ids=positions, use_cache=False, **packing_arguments(lengths, device)
        ).last_hidden_state[0]
        above = torch.randn(library.shape, generator=generator).to(library)
        expected = torch.autograd.grad(library, adapters, above)
        try:
            hidden = fused.hidden(tokens, positions, lengths)
            found = torch.autograd.grad(hidden, adapters, above)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler that is missing, a GPU that a kernel does not know: told, not guessed
            said = str(error).strip().split("\n", 1)[0]
            raise NotFusableError(f"fused layers do not run here: {type(error).__name__}: {said}") from error
    off = apart(hidden, library)
    gradients = sorted(apart(one, other) for one, other in zip(found, expected, strict=True))
    median = gradients[len(gradients) // 2]
    limits = LIMITS[library.dtype]
    if not (off <= limits[0] and median <= limits[1]):
        raise NotFusableError(
            f"fused layers differ from the library's on this model: {off:.1e} in the hidden states (limit {limits[0]:.0e}), "
            f"{median:.1e} in the gradients (limit {limits[1]:.0e})"
        )
    return f"proven on this model: hidden states within {off:.1e}, gradients within {median:.1e} of the library's"
