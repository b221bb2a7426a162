"""Completions that share a forward and backward pass, laid end to end, and the tensors that a pass takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tanren.common.completions import Completion
from tanren.common.first_fit import first_fit
from tanren.common.fused import TokenLogProbs, next_token_log_probs
from tanren.common.task_contract import Row
from tanren.grpo.prompts import Prompt
from tanren.grpo.rollout import Rated


@dataclass(frozen=True)
class Tensors:
    """Of one micro-batch. "Tokens" are those of the prompts and completions, "learned" those of the completions alone."""

    tokens: torch.Tensor
    """(1, tokens)."""
    positions: torch.Tensor
    """(1, tokens), from 0 in each prompt."""
    lengths: list[int]
    """Tokens of each sample: a prompt with its completion, or each by itself where prompts are shared."""
    follows: list[bool]
    """Of each sample, whether it is a completion of the last prompt before it."""
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


def micro_batches(completions: Sequence[Rated], budget: int, *, shared: bool = False) -> list[list[Rated]]:
    """Pack completions into micro-batches of at most `budget` tokens, prompts included; one that is longer stands alone.

    `shared`: completions of a group lie side by side, and their prompt counts once.
    """
    parts = _parts_of_groups(completions, budget) if shared else [[one] for one in completions]
    packed = first_fit([_tokens(part) for part in parts], budget)
    return [[one for place in members for one in parts[place]] for members in packed]


def _parts_of_groups(completions: Sequence[Rated], budget: int) -> list[list[Rated]]:
    """Split each group into as few parts as fit into the budget with the prompt."""
    parts: list[list[Rated]] = []
    for one in completions:
        part = parts[-1] if parts else []
        if part and part[0].group == one.group and _tokens(part) + len(one.completion.token_ids) <= budget:
            part.append(one)
        else:
            parts.append([one])
    return parts


def _tokens(part: Sequence[Rated]) -> int:
    """Return the tokens of completions of one prompt, the prompt once."""
    return len(part[0].prompt.token_ids) + sum(len(one.completion.token_ids) for one in part)


def tensors_of(completions: Sequence[Rated], device: torch.device | str, *, shared: bool = False) -> Tensors:
    """Lay a micro-batch out; `shared`: completions of a group that lie side by side behind one copy of their prompt."""
    tokens: list[tuple[int, ...]] = []
    positions: list[np.ndarray] = []
    predicting: list[np.ndarray] = []
    lengths: list[int] = []
    follows: list[bool] = []
    place = last = 0
    before: Rated | None = None
    for one in completions:
        prompt, own = one.prompt.token_ids, one.completion.token_ids
        if not shared or before is None or before.group != one.group:
            tokens.append(prompt)
            positions.append(np.arange(len(prompt)))
            lengths.append(len(prompt))
            follows.append(False)
            place += len(prompt)
            last = place - 1
        tokens.append(own)
        positions.append(np.arange(len(prompt), len(prompt) + len(own)))
        if shared:
            lengths.append(len(own))
            follows.append(True)
        else:
            lengths[-1] += len(own)
        predicting.append(np.concatenate(([last], np.arange(place, place + len(own) - 1))))
        place += len(own)
        before = one
    learned = [len(one.completion.token_ids) for one in completions]
    read = torch.from_numpy(np.stack((np.concatenate(tokens), np.concatenate(positions))).astype(np.int64)).to(device)
    targets = np.concatenate([np.asarray(one.completion.token_ids) for one in completions])
    wanted = torch.from_numpy(np.stack((np.concatenate(predicting), targets)).astype(np.int64)).to(device)
    advantages = np.repeat(np.array([one.advantage for one in completions], dtype=np.float64), learned)
    engine = [value for one in completions for value in one.completion.log_probs]
    return Tensors(
        tokens=read[:1],
        positions=read[1:],
        lengths=lengths,
        follows=follows,
        predicting=wanted[0],
        targets=wanted[1],
        learned=learned,
        engine=torch.tensor(engine, dtype=torch.float32, device=device),
        advantages=torch.from_numpy(advantages).to(device, torch.float32),
    )


def log_probs_of(model: Any, made: Tensors, *, reference: bool = False) -> TokenLogProbs:
    """Return the log-probability of each learned token; `reference`: of the model without its adapter, without gradient."""
    return next_token_log_probs(
        model,
        made.tokens,
        made.positions,
        made.lengths,
        made.predicting,
        made.targets,
        follows=made.follows,
        reference=reference,
    )


def stand_in(prompt: Sequence[int], completion: Sequence[int], group: int) -> Rated:
    """Return a completion of these tokens that nobody generated or judged, to lay out and compute as any."""
    asked = Prompt(Row("", (), "", "", None), tuple(prompt), "")
    written = Completion(tuple(completion), (0.0,) * len(completion), "length")
    return Rated(asked, written, "", None, {}, 0.0, None, group, 1.0)
