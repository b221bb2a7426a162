"""How far a computation is from another one of the same."""

from __future__ import annotations

import torch


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return ||one - other|| / ||other||, in float64."""
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm())
