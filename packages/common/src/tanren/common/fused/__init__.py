"""Training through fused layers: fewer passes over memory, the same numbers (docs/speed.md)."""

from tanren.common.fused._choice import Route, choose_route, next_token_loss, route_of
from tanren.common.fused._log_probs import TokenLogProbs, linear_log_probs, next_token_log_probs
from tanren.common.fused._loss import linear_cross_entropy
from tanren.common.fused._model import FusedModel, NotFusableError

__all__ = [
    "FusedModel",
    "NotFusableError",
    "Route",
    "TokenLogProbs",
    "choose_route",
    "linear_cross_entropy",
    "linear_log_probs",
    "next_token_log_probs",
    "next_token_loss",
    "route_of",
]
