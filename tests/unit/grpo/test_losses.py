"""Each loss against its paper's formula, written out in plain Python over single tokens, and its gradient by differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch

from tanren.grpo.config import LossConfig, LossKind
from tanren.grpo.losses import correction_weights, divergence, token_terms, token_weight

KINDS = get_args(LossKind)
LENGTHS = [3, 1, 4]
MOST = 6
ADVANTAGES = [0.7, -1.2, 0.4]
NEW = [-1.0, -2.0, -0.1, -0.9, -3.0, -0.2, -1.1, -0.6]
OLD = [-1.3, -1.5, -0.1, -1.6, -2.2, -0.9, -1.1, -0.5]
REFERENCE = [-1.2, -1.9, -0.4, -0.9, -2.5, -0.3, -1.0, -0.9]
LOW, HIGH, BETA = 0.2, 0.3, 0.1


def _by_completion(values: Sequence[float]) -> list[list[float]]:
    ends = [sum(LENGTHS[: place + 1]) for place in range(len(LENGTHS))]
    return [list(values[end - length : end]) for end, length in zip(ends, LENGTHS, strict=True)]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _paper(kind: str, new_values: Sequence[float], frozen: Sequence[float], beta: float) -> float:
    """The loss as the papers write it; `frozen` are the new values where a formula stops the gradient."""
    new, old, ref, stopped = (_by_completion(one) for one in (new_values, OLD, REFERENCE, frozen))
    n, total = len(LENGTHS), sum(LENGTHS)
    objective = 0.0
    for i, advantage in enumerate(ADVANTAGES):
        length = LENGTHS[i]
        log_ratios = [p - q for p, q in zip(new[i], old[i], strict=True)]
        kl = [math.exp(r - p) - (r - p) - 1 for r, p in zip(ref[i], new[i], strict=True)]
        if kind == "gspo":  # arXiv:2507.18071, equations 5 to 7
            s = math.exp(sum(log_ratios) / length)
            objective += min(s * advantage, _clip(s, 1 - LOW, 1 + HIGH) * advantage) / n
            objective -= beta * sum(kl) / length / n
            continue
        terms = []
        for t in range(length):
            ratio = math.exp(log_ratios[t])
            if kind == "cispo":  # arXiv:2506.13585, equation 4
                weight = min(math.exp(stopped[i][t] - old[i][t]), 1 + HIGH)
                terms.append(weight * advantage * new[i][t] - beta * kl[t])
            else:
                clipped = _clip(ratio, 1 - LOW, 1 + HIGH)
                terms.append(min(ratio * advantage, clipped * advantage) - beta * kl[t])
        if kind == "grpo":
            objective += sum(terms) / length / n
        elif kind == "dr_grpo":
            objective += sum(terms) / MOST / n
        else:
            objective += sum(terms) / total
    return -objective


def _ours(kind: str, log_probs: torch.Tensor, beta: float, lengths: Sequence[int] = LENGTHS) -> torch.Tensor:
    config = LossConfig.model_validate({"kind": kind, "clip_low": LOW, "clip_high": HIGH, "beta": beta})
    advantages = torch.tensor(
        [a for a, length in zip(ADVANTAGES, lengths, strict=True) for _ in range(length)], dtype=torch.float64
    )
    terms = token_terms(
        config,
        log_probs,
        torch.tensor(OLD, dtype=torch.float64),
        advantages,
        lengths,
        reference=torch.tensor(REFERENCE, dtype=torch.float64) if beta else None,
    )
    weights = [token_weight(config.kind, length, lengths, MOST) for length in lengths for _ in range(length)]
    return (torch.tensor(weights, dtype=torch.float64) * terms.loss).sum()


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_its_papers_formula_and_so_is_its_gradient(kind: str, beta: float) -> None:
    log_probs = torch.tensor(NEW, dtype=torch.float64, requires_grad=True)
    loss = _ours(kind, log_probs, beta)
    loss.backward()
    assert loss.item() == pytest.approx(_paper(kind, NEW, NEW, beta), rel=1e-9)
    gradient: Any = log_probs.grad
    for place in range(len(NEW)):
        up, down = ([*NEW[:place], NEW[place] + step, *NEW[place + 1 :]] for step in (1e-6, -1e-6))
        slope = (_paper(kind, up, NEW, beta) - _paper(kind, down, NEW, beta)) / 2e-6
        assert gradient[place].item() == pytest.approx(slope, abs=1e-6)


def test_what_is_clipped_gives_no_gradient_and_is_counted() -> None:
    new = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    config = LossConfig(kind="dapo", clip_low=0.2, clip_high=0.2)
    terms = token_terms(config, new, torch.zeros(5), advantages, [5])
    assert terms.clipped.tolist() == [True, False, False, True, False]
    terms.loss.sum().backward()
    assert [value == 0 for value in new.grad.tolist()] == [True, False, False, True, False]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_every_kind_raises_what_was_better_than_the_mean(kind: str) -> None:
    log_probs = torch.tensor(OLD, dtype=torch.float64, requires_grad=True)
    _ours(kind, log_probs, 0.0).backward()
    for advantage, gradients in zip(ADVANTAGES, _by_completion(log_probs.grad.tolist()), strict=True):  # type: ignore[union-attr]
        assert all(gradient * advantage < 0 for gradient in gradients)


def test_weights_for_an_engine_that_differs() -> None:
    trainer, engine = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    assert correction_weights(LossConfig(), trainer, engine, [2, 1]) is None
    token = correction_weights(LossConfig(correction="token", correction_cap=1.5), trainer, engine, [2, 1])
    assert token is not None
    assert token.tolist() == pytest.approx([1.5, math.exp(-1), 1.0])
    sequence = correction_weights(LossConfig(correction="sequence"), trainer, engine, [2, 1])
    assert sequence is not None
    assert sequence.tolist() == pytest.approx([math.exp(-0.5), math.exp(-0.5), 1.0])


def test_the_mean_of_the_divergence_is_the_divergence() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.5, 0.25, 0.25]).double()
    estimate = (p * divergence(q.log() - p.log())).sum()
    assert estimate.item() == pytest.approx(sum(float(a) * math.log(a / b) for a, b in zip(p, q, strict=True)))
