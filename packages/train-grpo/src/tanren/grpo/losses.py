"""The losses, token by token: what each token adds to the loss of an update, so that micro-batches can be any.

An update's loss is a sum over its tokens of weight x term. The weight depends on the lengths of all completions of the
update alone (`token_weight`), the term on the token and, for gspo, on its completion (`token_terms`). Written for one
token t of completion i, with r the ratio of new to old probability, A the advantage, N completions in the update:

    grpo     term  -min(r A, clip(r, 1 - low, 1 + high) A)     weight  1 / (N |o_i|)    Shao et al. 2024, arXiv:2402.03300, eq. 3
    dr_grpo  the same term                                     weight  1 / (N L), L = max_new_tokens
                                                               Liu et al. 2025, arXiv:2503.20783: no bias to the short or long
    dapo     the same term                                     weight  1 / sum_i |o_i|  Yu et al. 2025, arXiv:2503.14476, eq. 8
    bnpo     as dapo: TRL calls so the mean over the tokens of a local batch, and ours does not depend on micro-batches
    gspo     the same term with r = exp(mean over the completion's tokens of log r)     Zheng et al. 2025, arXiv:2507.18071, eq. 5-7
                                                               weight  1 / (N |o_i|), so that a completion weighs 1 / N
    cispo    -stop(min(r, 1 + high)) A log p                   weight  1 / sum_i |o_i|  MiniMax 2025, arXiv:2506.13585, eq. 4

To each term `beta` adds the divergence from the reference, exp(ref - p) - (ref - p) - 1, which is never negative and whose
mean is the divergence (Schulman 2020, "Approximating KL Divergence"; arXiv:2402.03300, eq. 4). Completions without a
reward are in no sum and no count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tanren.grpo.config import LossConfig, LossKind

TOKEN_MEANS: tuple[LossKind, ...] = ("dapo", "bnpo", "cispo")
"""Kinds whose loss is a mean over all tokens, so that a long completion weighs more."""


@dataclass(frozen=True)
class Terms:
    """Of each token, (tokens,); a completion's tokens lie side by side."""

    loss: torch.Tensor
    """The term, with gradient; without its weight."""
    ratio: torch.Tensor
    """New to old probability, as the kind takes it; without gradient."""
    clipped: torch.Tensor
    """Whether clipping takes the token's gradient away (cispo: whether its weight is cut)."""
    reference_kl: torch.Tensor | None
    """The divergence from the reference; None without one."""


def token_weight(kind: LossKind, length: int, lengths: Sequence[int], max_new_tokens: int) -> float:
    """Return the weight of each token of a completion of `length` tokens in an update of completions of these `lengths`."""
    if kind in TOKEN_MEANS:
        return 1 / sum(lengths)
    return 1 / (len(lengths) * (max_new_tokens if kind == "dr_grpo" else length))


def token_terms(
    config: LossConfig,
    log_probs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    lengths: Sequence[int],
    *,
    reference: torch.Tensor | None = None,
    correction: torch.Tensor | None = None,
) -> Terms:
    """Return each token's term of the loss.

    `log_probs` (tokens,) in nats under the model that learns, with gradient; `old` under the one that sampled, as the
    trainer computes it; `advantages` each token's; `lengths` the completions' tokens; `correction` (tokens,) is multiplied to
    what the policy contributes (`correction_weights`).
    """
    log_ratio = log_probs - old
    if config.kind == "gspo":
        log_ratio = _completion_means(log_ratio, lengths)
    ratio = log_ratio.exp()
    low, high = 1 - config.clip_low, 1 + config.clip_high
    if config.kind == "cispo":
        policy = -ratio.detach().clamp(max=high) * advantages * log_probs
        clipped = ratio.detach() > high
    else:
        policy = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    if correction is not None:
        policy = policy * correction
    if reference is None:
        return Terms(policy, ratio.detach(), clipped, None)
    kl = divergence(reference - log_probs)
    return Terms(policy + config.beta * kl, ratio.detach(), clipped, kl.detach())


def correction_weights(
    config: LossConfig, trainer: torch.Tensor, engine: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor | None:
    """Return how much more probable the trainer finds what the engine sampled, (tokens,), cut at the recipe's cap.

    Truncated importance sampling: Ionides 2008, J. Comput. Graph. Stat. 17(2). `sequence` takes the product over a
    completion's tokens, which is the weight without bias before the cut; `token` each token's own, with less variance.
    None where the recipe asks for none.
    """
    if config.correction == "none":
        return None
    log_weights = trainer.detach() - engine
    if config.correction == "sequence":
        log_weights = torch.cat([part.sum().expand(len(part)) for part in log_weights.split(list(lengths))])
    return log_weights.exp().clamp(max=config.correction_cap)


def divergence(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return exp(x) - x - 1 of each log-ratio q / p at words drawn from p: its mean is KL(p, q), and none is negative."""
    return torch.expm1(log_ratio) - log_ratio


def _completion_means(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Return each token's mean over its completion."""
    return torch.cat([part.mean().expand(len(part)) for part in values.split(list(lengths))])
