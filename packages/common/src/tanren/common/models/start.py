"""The model that training starts from: loaded, with its parents merged, and then quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tanren.common.chain import TrainedAdapter, same_base
from tanren.common.config import Quantisation
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.models.device import DevicePlan
from tanren.common.models.load import LoadedModel, load_model
from tanren.common.models.merging import with_parents
from tanren.common.models.source import ModelSource

if TYPE_CHECKING:
    from tanren.common.fp8 import Batch


def load_start(
    source: ModelSource,
    device: DevicePlan,
    quantisation: Quantisation,
    parent: TrainedAdapter | None,
    console: Console,
    batch: Batch | None = None,
) -> LoadedModel:
    """Load a model and merge into it a parent with all its own; what fp8 costs is measured on `batch`.

    Parents are merged into 16- or 32-bit weights, always: what quantises comes after. Raises UserError where the parent was
    trained on another base.
    """
    with console.phase("load model", source.name):
        loaded = load_model(source, device, quantisation if parent is None else "none", batch)
    if parent is not None:
        differing = same_base(parent.base, loaded.provenance)
        if differing:
            raise UserError(f"model.parent {parent.itself.run} was trained on another base model: {differing}")
        with console.phase("merge parents", ", ".join(parent.lines())):
            loaded = with_parents(loaded, parent.chain(device.dtype), device, quantisation, batch)
    for note in loaded.notes:
        console.line(note)
    return loaded
