"""What a document may hold, given the formats that it must pass through without loss."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .formats import FormatName
from .values import natural

_UNSPEAKABLE = re.compile(r'["\\\n\t]')
"""What a string in quotation marks in running text cannot hold without doubt about its meaning."""

Kind = Literal["conversion", "extraction", "generation"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What the values of one document may be."""

    null: bool  # null values: TOML, XML and CSV have none
    empty_list: bool  # XML writes an empty list and an empty string alike
    edge_space: bool  # strings that begin or end with space: XML and CSV readers strip it
    looks_typed: bool  # strings such as "12" or "true", which natural typing would not give back as strings
    in_prose: bool  # the values are told in running text

    def admit(self, text: str) -> bool:
        """Tell whether a string may stand in the document."""
        if not self.edge_space and text != text.strip():
            return False
        if not self.looks_typed and natural(text) != text:
            return False
        return not self.in_prose or (text == text.strip() != "" and not _UNSPEAKABLE.search(text))


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
