"""Completions that share a forward and backward pass, laid end to end, and the tensors that a pass takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tanren.common.first_fit import first_fit
from tanren.grpo.rollout import Rated


@dataclass(frozen=True)
class Tensors:
    """Of one micro-batch. "Tokens" are those of the prompts and completions, "learned" those of the completions alone."""

    tokens: torch.Tensor
    """(1, tokens)."""
    positions: torch.Tensor
    """(1, tokens), from 0 in each completion's prompt."""
    lengths: list[int]
    """Tokens of each prompt with its completion."""
    predicting: torch.Tensor
    """(learned,): the token before each learned one."""
    targets: torch.Tensor
    """(learned,)."""
    learned: list[int]
    """Learned tokens of each completion."""
    engine: torch.Tensor
    """(learned,): log-probabilities in nats as the engine gave them, float32."""
    advantages: torch.Tensor
    """(learned,), float32: each completion's at each of its tokens."""


def micro_batches(completions: Sequence[Rated], budget: int) -> list[list[Rated]]:
    """Pack completions into micro-batches of at most `budget` tokens, prompts included; one that is longer stands alone."""
    packed = first_fit([one.tokens for one in completions], budget)
    return [[completions[place] for place in members] for members in packed]


def tensors_of(completions: Sequence[Rated], device: torch.device | str) -> Tensors:
    """Lay a micro-batch out."""
    prompts = [len(one.prompt.token_ids) for one in completions]
    learned = [len(one.completion.token_ids) for one in completions]
    lengths = [prompt + own for prompt, own in zip(prompts, learned, strict=True)]
    tokens = np.concatenate(
        [
            np.asarray(ids, dtype=np.int64)
            for one in completions
            for ids in (one.prompt.token_ids, one.completion.token_ids)
        ]
    )
    positions = np.concatenate([np.arange(length) for length in lengths])
    starts = np.cumsum([0, *lengths[:-1]])
    places = np.concatenate(
        [
            np.arange(start + prompt, start + length)
            for start, prompt, length in zip(starts, prompts, lengths, strict=True)
        ]
    )
    read = torch.from_numpy(np.stack((tokens, positions))).to(device)
    wanted = torch.from_numpy(np.stack((places - 1, tokens[places]))).to(device)
    advantages = np.repeat(np.array([one.advantage for one in completions], dtype=np.float64), learned)
    engine = [value for one in completions for value in one.completion.log_probs]
    return Tensors(
        tokens=read[:1],
        positions=read[1:],
        lengths=lengths,
        predicting=wanted[0],
        targets=wanted[1],
        learned=learned,
        engine=torch.tensor(engine, dtype=torch.float32, device=device),
        advantages=torch.from_numpy(advantages).to(device, torch.float32),
    )
