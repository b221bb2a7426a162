"""Whether the completions of a group share one pass over their prompt in training; proven on the model before step 1.

A prompt of 800 tokens with 16 completions of 512 is 20,992 tokens one by one, and 8,992 where the prompt is read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.adapted import adapters_at_work, base_of
from tanren.common.attention import Choice, traits_of
from tanren.common.attention.packed import sharing_fault
from tanren.common.config import AUTO
from tanren.common.distances import apart
from tanren.common.errors import UserError
from tanren.grpo.config import SharePrompts
from tanren.grpo.micro_batches import log_probs_of, stand_in, tensors_of

SAMPLES = {"cuda": (150, (70, 1, 130)), "cpu": (30, (14, 1, 26))}
"""Tokens of the proof's prompt and completions. On a GPU across, at and within the kernels' tiles of 64 and 128; a CPU has none."""
LIMITS = {torch.float32: (1e-3, 1e-2), torch.bfloat16: (1e-1, 3e-1)}
"""Of the mean distance of log-probabilities in nats, and of ||found - expected|| / ||expected|| of half of the gradients.
Tens of layers in bfloat16 end at 2e-2 and 1e-1 by rounding alone; samples that see too much or too little, near 1."""


@dataclass(frozen=True)
class Sharing:
    """How prompts are read in training."""

    shared: bool
    why: str

    def line(self) -> str:
        """Say it in one line."""
        said = "read once for all completions of a group" if self.shared else "read with each completion"
        return f"prompts in training: {said} ({self.why})"


def choose_sharing(model: Any, named: SharePrompts, attention: Choice) -> Sharing:
    """Choose for a model with its adapter and the attention that was chosen for it.

    Raises UserError where sharing was named and cannot be, or fails its proof.
    """
    if named == "off":
        return Sharing(False, "train.share_prompts = off")
    fault = (
        sharing_fault(attention.kernel, traits_of(base_of(model).config))
        if attention.packs
        else "this model's attention takes one sample at a time"
    )
    proof = ""
    if fault is None:
        fault, proof = _prove(model)
    if fault is None:
        return Sharing(True, proof)
    if named != AUTO:
        raise UserError(f"train.share_prompts = on: {fault}; leave it at auto")
    return Sharing(False, fault)


def _prove(model: Any) -> tuple[str | None, str]:
    """Compute log-probabilities and gradients both ways; return the fault, if there is one, and how far apart they are."""
    with adapters_at_work(model) as adapters:
        generator = torch.Generator().manual_seed(0)
        prompt, completions = SAMPLES[model.device.type]
        vocabulary = int(base_of(model).config.get_text_config().vocab_size)
        texts = [
            torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in (prompt, *completions)
        ]
        above = torch.randn(sum(completions), generator=generator).to(model.device)
        both = []
        for shared in (False, True):
            found = _log_probs(model, texts[0], texts[1:], shared=shared)
            both.append((found.detach(), torch.autograd.grad((found * above).sum(), adapters)))
    (alone, expected), (together, gradients) = both
    off = float((together - alone).abs().mean())
    distances = sorted(apart(one, other) for one, other in zip(gradients, expected, strict=True))
    median = distances[len(distances) // 2]
    limits = LIMITS[torch.bfloat16 if model.dtype == torch.float16 else model.dtype]
    said = f"log-probabilities within {off:.1e} nats, gradients within {median:.1e} of those one by one"
    if off <= limits[0] and median <= limits[1]:
        return None, f"proven on this model: {said}"
    return f"it gives other numbers on this model: {said}, over the limits of {limits[0]:.0e} and {limits[1]:.0e}", ""


def _log_probs(model: Any, prompt: list[int], completions: list[list[int]], *, shared: bool) -> torch.Tensor:
    """Return the log-probability of each token of the completions, laid out as the trainer does it."""
    group = [stand_in(prompt, one, 0) for one in completions]
    return log_probs_of(model, tensors_of(group, model.device, shared=shared)).log_probs
