"""NEFTune (Jain et al. 2023, arXiv:2310.05914): noise on the embeddings of what is trained on, and of nothing else.

The library's own takes the length of the whole row of tokens, which in a packed micro-batch is that of many samples:
its noise would grow fainter the more samples share a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class EmbeddingNoise:
    """Adds uniform noise between -b and b, b = alpha / sqrt(tokens of the sample x hidden size), where it is turned on."""

    def __init__(self, model: PeftModel | PreTrainedModel, alpha: float) -> None:
        """Watch the input embeddings of `model`."""
        self._alpha = alpha
        self._lengths: Sequence[int] | None = None
        self._added = False
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(self._add)

    @contextmanager
    def on(self, lengths: Sequence[int]) -> Iterator[None]:
        """Turn it on for one pass over samples of so many tokens each, which lie end to end in one row."""
        self._lengths, self._added = lengths, False
        try:
            yield
        finally:
            self._lengths = None
        assert self._added, "the forward pass looks its embeddings up in another way"

    def _add(self, module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        """Return embeddings (1, tokens, hidden) with noise; what lies behind the last sample has none."""
        del module, inputs
        if self._lengths is None:
            return output
        self._added = True
        _, tokens, hidden = output.shape
        # On the host: to repeat by counts that lie on a GPU would wait for it.
        lengths = torch.tensor(self._lengths)
        bound = torch.zeros(tokens)
        bound[: sum(self._lengths)] = (self._alpha / (lengths * hidden).sqrt()).repeat_interleave(lengths)
        noise = torch.empty(output.shape, device=output.device).uniform_(-1, 1)
        return output + (noise * bound.to(output.device)[None, :, None]).to(output.dtype)
