"""How a model is computed in training: through fused layers and a loss in parts, or the library's own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.adapted import base_of
from tanren.common.attention.packed import is_packed, packing_arguments
from tanren.common.bare_adapters import make_bare
from tanren.common.config import AUTO, Checkpointing, Layers
from tanren.common.errors import UserError
from tanren.common.fused._loss import linear_cross_entropy
from tanren.common.fused._model import FusedModel, NotFusableError, plain_head
from tanren.common.fused._proof import prove
from tanren.common.models.checkpointing import enable_checkpointing

_ROUTE = "_tanren_route"


@dataclass(frozen=True)
class Route:
    """The way from tokens to a loss that was chosen for a model."""

    fused: FusedModel | None = None
    in_parts: bool = False
    """The loss is taken a few thousand tokens at a time, so that all logits are never held."""
    why: str = ""
    """Why the layers are not fused, or how the proof went."""

    def line(self) -> str:
        """Say it in one line."""
        said = "fused" if self.fused else "the library's"
        return f"layers: {said} ({self.why})" if self.why else f"layers: {said}"


def choose_route(model: Any, named: Layers, checkpointing: Checkpointing, device: str, *, proven: bool = True) -> Route:
    """Choose how a model with its adapter is computed in training on a kind of device, and keep it with the model.

    `proven`: fused layers are held against the library's on the model itself. Raises UserError where fused layers were
    named and this model cannot have them, or fails the proof.
    """
    fused, why = None, ""
    if named == "plain":
        why = "train.layers = plain"
    elif named == AUTO and device == "cpu":
        why = "auto fuses on a GPU"
    else:
        try:
            fused = FusedModel(model, checkpointing)
            why = prove(model, fused) if proven else ""
        except NotFusableError as error:
            if named == "fused":
                raise UserError(f"train.layers = fused: {error}; leave it at auto") from None
            fused, why = None, str(error)
    if fused is None:
        enable_checkpointing(model, checkpointing)
        if named == AUTO and device == "cpu":
            bare = len(make_bare(model))
            why += f"; of {bare} LoRA layers the products alone" if bare else ""
    in_parts = plain_head(model) is not None and (fused is not None or (named != "plain" and device != "cpu"))
    route = Route(fused, in_parts, why)
    setattr(model, _ROUTE, route)
    return route


def route_of(model: Any) -> Route:
    """Return the way that was chosen for a model; the library's own where none was."""
    found: Route = getattr(model, _ROUTE, Route())
    return found


def next_token_loss(
    model: Any,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    lengths: Sequence[int],
    predicting: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Return the summed cross entropy in nats, float32, of what follows the tokens `predicting`: `targets`.

    `tokens` and `positions` are (1, tokens): samples of these lengths end to end, each with positions from 0. Logits are
    computed only where the next token is learned.
    """
    route = route_of(model)
    if route.fused is None and not route.in_parts:
        logits = library_logits(model, tokens, positions, lengths, predicting)
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    head = plain_head(model)
    assert head is not None, "a loss in parts needs a plain output head"
    hidden = last_hidden(model, route.fused, tokens, positions, lengths)
    return linear_cross_entropy(hidden, head.weight, predicting, targets)


def last_hidden(
    model: Any,
    fused: FusedModel | None,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    lengths: Sequence[int],
    follows: Sequence[bool] = (),
) -> torch.Tensor:
    """Return the hidden states before the output head, (tokens, width), by fused layers or (None) the library's."""
    if fused is not None:
        return fused.hidden(tokens, positions, lengths, follows)
    made = base_of(model).base_model(**_inputs(model, tokens, positions, lengths, follows))
    hidden: torch.Tensor = made.last_hidden_state[0]
    return hidden


def library_logits(
    model: Any,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    lengths: Sequence[int],
    predicting: torch.Tensor,
    follows: Sequence[bool] = (),
) -> torch.Tensor:
    """Return the logits of the tokens `predicting`, (predicting, words), all at once, by the library's layers and head."""
    logits: torch.Tensor = model(
        **_inputs(model, tokens, positions, lengths, follows), logits_to_keep=predicting
    ).logits[0]
    return logits


def _inputs(
    model: Any, tokens: torch.Tensor, positions: torch.Tensor, lengths: Sequence[int], follows: Sequence[bool]
) -> dict[str, Any]:
    """What the library's layers are called with for packed samples."""
    packed = is_packed(model)
    assert packed or len(lengths) == 1, "another attention would attend across packed samples"
    extra = packing_arguments(lengths, tokens.device, follows) if packed else {}
    return {"input_ids": tokens, "position_ids": positions, "use_cache": False, **extra}
