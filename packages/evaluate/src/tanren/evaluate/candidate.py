"""A trained adapter as it is evaluated: on the weights that it was trained on, with its parents and their rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.chain import Link, TrainedAdapter, same_base
from tanren.common.config import Loaded, Quantisation
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource
from tanren.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel


def quantisation_of(loaded: Loaded[EvaluateConfig], adapter: TrainedAdapter | None) -> tuple[Quantisation, str]:
    """Return how the base model's layers are kept, and what is to be said of it: as the adapter was trained, unless it was named.

    What an adapter has learned belongs to the weights that it was trained on, with their rounding.
    """
    asked = loaded.config.model.quantisation
    if adapter is None:
        return asked, ""
    trained: Quantisation = adapter.base.get("quantisation", "none")
    if trained == asked:
        return asked, ""
    if "model.quantisation" in loaded.origins:
        return asked, (
            f"the adapter was trained on a base with quantisation {trained}; it is evaluated with {asked}, as "
            f"model.quantisation says ({loaded.origins['model.quantisation']})"
        )
    return (
        trained,
        f"the base model is loaded in {trained}, as the adapter was trained; model.quantisation names another",
    )


def check_provenance(adapter: TrainedAdapter, base: Mapping[str, Any], template: str, config: EvaluateConfig) -> None:
    """Refuse an adapter that was trained on other weights, or with another chat template."""
    differing = same_base(adapter.base, base)
    if differing:
        raise UserError(
            f"adapter {adapter.folder} was trained on another base model: {differing}; set model.name (and model.revision) "
            "to the one it was trained on"
        )
    if adapter.template != template and not config.allow_other_template:
        raise UserError(
            f"adapter {adapter.folder} was trained with the chat template {adapter.template}, the model's is {template}; "
            "its prompts would differ from training; name the one that it had with model.chat_template, or evaluate all the same with "
            "--allow-other-template"
        )


def with_adapter(
    base: LoadedModel,
    adapter: Path,
    parents: Sequence[Link],
    source: ModelSource,
    device: DevicePlan,
    quantisation: Quantisation,
    console: Console,
) -> Any:
    """Return the base model with the adapter's parents merged and the adapter on it; `base` itself is changed by that."""
    from tanren.common.models.load import load_model
    from tanren.common.models.merging import load_adapter, with_parents

    model = base.model
    if parents:
        with console.phase("merge parents", ", ".join(link.line() for link in parents)):
            # what is quantised cannot be merged into
            whole = base if quantisation == "none" else load_model(source, device)
            model = with_parents(whole, parents, device, quantisation).model
    with console.phase("load adapter", str(adapter)):
        return load_adapter(model, adapter)
