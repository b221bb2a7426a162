"""How the fused experts of a model are computed in training: as grouped products beside their adapters, or the library's way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.adapted import base_of
from tanren.common.config import AUTO, Experts
from tanren.common.errors import UserError
from tanren.common.experts._adapter import GROUPED, ParamWrapper
from tanren.common.experts._forward import grouped_experts  # noqa: F401 (registers them)
from tanren.common.experts._model import NotGroupableError, check, is_fused, outermost, within
from tanren.common.experts._proof import prove


@dataclass(frozen=True)
class ExpertsChoice:
    """The way that was chosen for a model's experts."""

    grouped: bool
    why: str
    """Why they are not grouped, or how the proof went."""

    def line(self) -> str:
        """Say it in one line."""
        said = "grouped" if self.grouped else "the library's"
        return f"experts: {said} ({self.why})" if self.why else f"experts: {said}"


def adapter_classes(model: Any) -> dict[type[torch.nn.Module], type[torch.nn.Module]]:
    """Return which class of adapter PEFT is to put on which class of module: on experts, one that need not be merged."""
    return {type(module): ParamWrapper for module in model.modules() if is_fused(module)}


def choose_experts(model: Any, named: Experts, *, proven: bool = True) -> ExpertsChoice | None:
    """Choose how a model's experts are computed; None where it has no fused experts.

    `proven`: grouped experts are held against the library's on the model itself. Raises UserError where a way was named
    and the model has no fused experts, cannot have them grouped, or fails the proof.
    """
    experts = [within(module) for module in outermost(model)]
    if not experts:
        if named != AUTO:
            raise UserError(f"train.experts = {named}: this model has no fused experts; leave it at auto")
        return None
    library = experts[0].config._experts_implementation
    if named == "plain":
        return ExpertsChoice(grouped=False, why="train.experts = plain")
    try:
        check(model)
        why = prove(model, library) if proven else ""
    except NotGroupableError as error:
        if named == "grouped":
            raise UserError(f"train.experts = grouped: {error}; leave it at auto") from None
        return ExpertsChoice(grouped=False, why=str(error))
    base_of(model).set_experts_implementation(GROUPED)
    return ExpertsChoice(grouped=True, why=why)
