"""What a document may hold, given the formats that it must pass through without loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .formats import FormatName
from .values import natural

Kind = Literal["conversion", "extraction", "generation"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What the values of one document may be."""

    null: bool  # null values: TOML, XML and CSV have none
    empty_list: bool  # XML writes an empty list and an empty string alike
    edge_space: bool  # strings that begin or end with space: XML and CSV readers strip it
    looks_typed: bool  # strings such as "12" or "true", which natural typing would not give back as strings
    in_prose: bool  # the values are told in running text: no line breaks, quotation marks or empty strings

    def admit(self, text: str) -> bool:
        """Tell whether a string may stand in the document."""
        if not self.edge_space and text != text.strip():
            return False
        if not self.looks_typed and natural(text) != text:
            return False
        return not (
            self.in_prose and (not text.strip() or '"' in text or "\n" in text or text != text.strip())
        )


def traits_of(kind: Kind, source: FormatName | None, target: FormatName) -> Traits:
    """Return what a document may hold that is asked for in `target` and, for a conversion, in `source`."""
    formats = {source, target} - {None}
    text_only = bool(formats & {"xml", "csv"})
    return Traits(
        null=formats <= {"json", "yaml"},
        empty_list=kind != "extraction" and not text_only,
        edge_space=kind != "extraction" and not text_only,
        looks_typed=source not in ("xml", "csv"),
        in_prose=kind == "extraction",
    )
