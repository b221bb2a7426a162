"""The options of the pack."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tanren.common.task_contract import TaskOptions

from .families import FAMILIES
from .formats import FORMAT_NAMES, FormatName
from .shapes import SizeName
from .traits import Kind

KINDS: tuple[Kind, ...] = ("conversion", "extraction", "generation")


class Options(TaskOptions):
    """What rows the pack makes. Rows depend on these alone, and more rows begin with the same rows."""

    seed: int = 0
    """Seed of all draws. Which schemas are held out does not depend on it."""

    train_rows: int = Field(default=1000, ge=0)
    """Rows of the split `train`."""

    heldout_rows: int = Field(default=200, ge=0)
    """Rows of the split `heldout`, which shares no schema and no document with `train`."""

    formats: tuple[FormatName, ...] = Field(default=FORMAT_NAMES, min_length=1)
    """Formats to answer in. Rows go round them in this order, so that every prefix is balanced."""

    sources: tuple[FormatName, ...] = Field(default=FORMAT_NAMES, min_length=1)
    """Formats to convert from."""

    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Tasks: `conversion` between formats, `extraction` from English, `generation` from a list of fields."""

    size: SizeName = "medium"
    """Size of the documents. `tiny`: 3 or 4 short fields, answers of 15 to 45 tokens; `large`: up to 1500."""

    strings: Literal["plain", "mixed", "awkward"] = "mixed"
    """Strings: plain ASCII words, or a third of them, or most, awkward (quotes, Unicode, "no", "12")."""

    families: tuple[str, ...] | None = None
    """Families of schemas to draw from, such as `order` and `sensor`; None means all."""

    system: str = "Answer with the document only."
    """The system message; "" leaves it out, and the model's chat template may then insert its own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("formats", "sources", "kinds", "families"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: found {list(values)}, expected each value once; remove the repeated one")
        unknown = sorted(set(self.families or ()) - set(FAMILIES))
        if unknown or self.families == ():
            raise ValueError(f"families: found {unknown or 'none'}, expected some of {', '.join(FAMILIES)}")
        if "conversion" in self.kinds:
            for target in self.formats:
                if set(self.sources) == {target}:
                    raise ValueError(
                        f"sources: found {target} alone, expected another format to convert to {target} "
                        f"from; add one to sources or remove {target} from formats"
                    )
        return self
