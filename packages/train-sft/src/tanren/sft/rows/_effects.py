"""Settings of `[data]` that exclude one another, or would have no effect."""

from __future__ import annotations

import math

from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.sft.config import SftConfig


def check_data(loaded: Loaded[SftConfig]) -> None:
    """Raise UserError for settings of `[data]` that do not go together."""
    data, origins = loaded.config.data, loaded.origins
    if data.file is not None and data.sources:
        raise UserError(
            f"data.file ({origins.get('data.file', 'default')}) and data.sources ({origins.get('data.sources', 'default')}) are two "
            f'ways to name the rows; write the file as one of the sources: [[data.sources]] name = "{data.file}"'
        )
    weighted = [source for source in data.sources if source.weight != 1]
    if weighted and data.total == "all":
        raise UserError(
            f'data.sources: the weight {weighted[0].weight:g} of {weighted[0].name} has no effect with data.total = "all", which takes '
            "every row once; write data.total = (a number of rows), or remove the weights"
        )
    _check_validation(loaded)
    _check_phases(loaded.config, "train.epochs" in origins)
    if data.normalise != "none" and data.learn_answer != "whole":
        raise UserError(
            f"data.learn_answer = {data.learn_answer} has no effect with data.normalise = {data.normalise}: the rewritten answer has "
            "no marker any more; remove one of the two"
        )


def _check_validation(loaded: Loaded[SftConfig]) -> None:
    data = loaded.config.data
    if data.validation and data.validation_share:
        raise UserError(
            f"data.validation_share = {data.validation_share:g} and data.validation both say which rows are for validation; remove one"
        )
    for source in data.validation:
        if source.weight != 1:
            raise UserError(
                f"data.validation: the weight {source.weight:g} of {source.name} has no effect: every row is used; remove it"
            )
    if (data.validation or data.validation_share) and data.file is None and not data.sources:
        name = "data.validation" if data.validation else "data.validation_share"
        raise UserError(
            f"{name} is for rows of data.file or data.sources: a task pack has held-out rows of its own; remove it"
        )


def _check_phases(config: SftConfig, epochs_given: bool) -> None:
    phases = config.data.phases
    if not phases:
        return
    if epochs_given:
        raise UserError("train.epochs has no effect with data.phases; give each phase its own epochs")
    for place, phase in enumerate(phases):
        if config.train.max_steps and phase.epochs is not None:
            raise UserError(
                f"data.phases[{place}].epochs has no effect with train.max_steps = {config.train.max_steps}; write share instead"
            )
        if config.train.max_steps and phase.share is None:
            raise UserError(
                f"data.phases[{place}].share is not set; with train.max_steps each phase needs one, together 1"
            )
        if not config.train.max_steps and phase.share is not None:
            raise UserError(
                f"data.phases[{place}].share is a share of train.max_steps, which is not set; set it, or write epochs"
            )
    shares = math.fsum(phase.share or 0.0 for phase in phases)
    if config.train.max_steps and not math.isclose(shares, 1, abs_tol=1e-6):
        raise UserError(f"data.phases: the shares sum up to {shares:g}, expected 1")
