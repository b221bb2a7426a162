"""Answers as a reader wants to see them: CSV as a table, XML as a tree of elements, other values as a tree.

What is returned is JSON: `{"kind": "table", "header", "rows"}`, `{"kind": "xml", "root"}` or `{"kind": "tree", "root"}`. Every
scalar is text in it, as a browser's numbers would round what a model wrote. Answers are untrusted: sizes and depth are
bounded, and XML with a document type (so with entities) is not read.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_CHARACTERS = 256 * 1024
MAX_NODES = 4000
"""Values or cells that are shown: what a browser draws at once. Packs read fewer."""
MAX_DEPTH = 80
_FENCE = re.compile(r"^[ \t]*```[^`\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_MORE = ["other", "… (more is in the raw text)"]


def shown(text: str, value: Any, group: str) -> dict[str, Any] | None:
    """Return how to show an answer, from its text, the value that the pack read in it and the group; None: as text only."""
    if len(text) > MAX_CHARACTERS:
        return None
    fenced = _FENCE.search(text)
    document = (fenced[1] if fenced else text).strip()
    if group.lower() == "csv":  # also where the widths differ: a table shows where
        return _csv(document)
    if document.startswith("<"):
        return _xml(document)
    if _is_table(value):
        header = list(value[0])
        return _table(header, [[_scalar(record[name])[1] for name in header] for record in value])
    if isinstance(value, dict | list) and value:
        return {"kind": "tree", "root": _Tree().node(value, 0)}
    return None


class _Tree:
    """Turns a value into nodes, as many as are shown."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def node(self, value: Any, depth: int) -> list[Any]:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            return _MORE
        if isinstance(value, dict):
            items = list(value.items())[: max(self._left, 0) + 1]
            return ["map", [[str(key), self.node(inner, depth + 1)] for key, inner in items]]
        if isinstance(value, list | tuple):
            return ["list", [self.node(inner, depth + 1) for inner in value[: max(self._left, 0) + 1]]]
        return _scalar(value)

    def element(self, element: Element, depth: int) -> list[Any]:
        self._left -= 1 + len(element.attrib)
        if self._left < 0 or depth > MAX_DEPTH:
            return ["…", [], "", [], ""]
        attributes = [[name, text] for name, text in element.attrib.items()]
        children = [self.element(child, depth + 1) for child in element[: max(self._left, 0) + 1]]
        return [element.tag, attributes, element.text or "", children, element.tail or ""]


def _xml(text: str) -> dict[str, Any] | None:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        root = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):  # ValueError: a lone surrogate
        return None
    return {"kind": "xml", "root": _Tree().element(root, 0)}


def _csv(text: str) -> dict[str, Any] | None:
    try:
        records = [record for record in csv.reader(io.StringIO(text, newline="")) if record]
    except csv.Error:
        return None
    return _table(records[0], records[1:]) if records else None


def _table(header: list[str], rows: list[list[str]]) -> dict[str, Any]:
    most = max(1, MAX_NODES // max(1, len(header)))
    kept = [row[:MAX_NODES] for row in rows[:most]]
    return {"kind": "table", "header": header[:MAX_NODES], "rows": kept, "left_out": len(rows) - len(kept)}


def _is_table(value: Any) -> bool:
    """Whether a value is a list of flat records with the same names."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict) or not value[0]:
        return False
    return all(
        isinstance(record, dict)
        and record.keys() == value[0].keys()
        and not any(isinstance(cell, dict | list | tuple) for cell in record.values())
        for record in value
    )


def _scalar(value: Any) -> list[Any]:
    if value is None:
        return ["null", "null"]
    if isinstance(value, bool):
        return ["bool", str(value).lower()]
    if isinstance(value, int):
        # Python refuses to write integers of more than some thousand digits in decimal.
        return ["number", str(value) if value.bit_length() < 4096 else hex(value)]
    if isinstance(value, float):
        return ["number", repr(value)]
    return ["text", value] if isinstance(value, str) else ["other", str(value)]
