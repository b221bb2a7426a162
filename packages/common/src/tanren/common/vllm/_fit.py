"""How large vLLM's cache is: what all completions need, or what there is room for; decided before it starts, not by its crashing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.adapted import base_of
from tanren.common.errors import MachineError
from tanren.common.vllm._engine import Settings
from tanren.common.vllm_memory import GIB, VllmMemory

# What is left free beside vLLM when its cache is as large as there is room: allocators round up.
LEFT_FREE = GIB


@dataclass(frozen=True)
class Fitted:
    """Settings that fit the GPU's memory as it is now."""

    settings: Settings
    held: float
    """Completions whose keys and values the cache holds at once, each as long as it may be."""

    def line(self) -> str:
        """Say it in half a line."""
        wanted = self.settings.sequences
        return f"a cache of {self.settings.cache_bytes / GIB:.1f} GiB holds {min(self.held, wanted):.0f} of {wanted} completions at once"


def fit_settings(
    model: Any,
    *,
    prompt_tokens: int,
    new_tokens: int,
    prompts: int,
    samples: int,
    share: float | None = None,
    graphs: bool = True,
) -> Fitted:
    """Fit vLLM for `prompts` prompts of at most so many tokens with `samples` completions each, beside what is on the GPU.

    `share`: of all memory, for vLLM with its weights; not given, as much as is of use and there is room for. Raises MachineError
    where there is no room.
    """
    base = base_of(model)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    sequences = prompts * samples
    memory = VllmMemory(
        base.config,
        base.num_parameters() * base.dtype.itemsize,
        total,
        prompt_tokens,
        new_tokens,
        prompts,
        sequences,
        graphs,
    )
    room = free - LEFT_FREE - sum(memory.fixed.values())
    cache = max(memory.sequence, min(memory.together, room)) if share is None else memory.cache(share)
    if cache > room or cache < memory.sequence:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in memory.fixed.items())
        helps = (
            "let less be generated at once, or shorter completions, or end what else is on this GPU"
            if share is None
            else f"change vLLM's share of {share:g}, or leave it at auto"
        )
        raise MachineError(
            f"no room for vLLM: {free / GIB:.1f} GiB of the GPU are free; it needs {parts}, and for its cache "
            f"{max(cache, memory.sequence) / GIB:.1f} ({memory.sequence / GIB:.1f} for one sequence of {prompt_tokens + new_tokens} "
            f"tokens, {memory.together / GIB:.1f} for all {sequences}); {helps}"
        )
    settings = Settings(sequences, prompt_tokens + new_tokens, cache, graphs=graphs)
    return Fitted(settings, memory.held(cache))
