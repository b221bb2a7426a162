"""XML: a mapping is child elements, a list is `<key><item>…</item></key>`, everything else is text.

An XML text is read into one shape, `{root: content}`, in which what the convention has no place for keeps a
key that no element can have, so that it shows as a difference: an attribute is `@name`, text between elements
`#text`, and the second `<a>` beside another one `a#2`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress
from xml.parsers import expat

from .limits import MAX_DEPTH, MAX_NODES, BrokenSyntaxError, FormatError, check_text
from .values import Value, text_of

ITEM = "item"
"""The element that holds one entry of a list. No mapping of a document has this key."""


def write(value: Value, *, one_line: bool) -> str:
    """Write `{root: content}` as XML, on one line or indented by two spaces, without a declaration."""
    assert isinstance(value, dict), "an XML document is a mapping of one key, its root"
    ((root, content),) = value.items()
    element = _element(root, content)
    if not one_line:
        ET.indent(element, "  ")
    return ET.tostring(element, encoding="unicode", short_empty_elements=False)


def _element(tag: str, value: Value) -> ET.Element:
    element = ET.Element(tag)
    if isinstance(value, dict):
        element.extend(_element(key, inner) for key, inner in value.items())
    elif isinstance(value, list):
        element.extend(_element(ITEM, inner) for inner in value)
    else:
        element.text = text_of(value)
    return element


def parse(text: str) -> Value:
    """Read an XML document without document type into `{root: content}`. Raises FormatError.

    Texts are stripped and stay texts.
    """
    check_text(text)
    text = text.strip()
    if "<!DOCTYPE" in text:
        _refuse_doctype(text)
    try:
        root = ET.XML(text)  # without a document type nothing can be declared: nothing expands, and nothing is fetched
    except ET.ParseError as error:
        raise BrokenSyntaxError(f"XML: {error}") from None
    if text.count("<") + text.count("=") > MAX_NODES:  # counting signs is a hundredth of the work
        _check_nodes(root)
    return {root.tag: _content(root, 1)}


def _refuse_doctype(text: str) -> None:
    """Refuse a document type, before anything in it is read; what only looks like one (in a comment) is none."""

    def refuse(*_declared: object) -> None:
        raise FormatError("XML: a document type or entity, neither is read")

    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    with suppress(expat.ExpatError):
        parser.Parse(text, True)


def _check_nodes(root: ET.Element) -> None:
    nodes = 0
    for element in root.iter():
        nodes += 1 + len(element.keys())
        if nodes > MAX_NODES:
            raise FormatError(f"XML: more than {MAX_NODES} elements")


def _content(element: ET.Element, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise FormatError(f"XML: nested deeper than {MAX_DEPTH} levels")
    content: dict[str, Value] = {f"@{name}": text for name, text in element.items()}
    pieces = [element.text or ""]
    is_list = not content
    for number, child in enumerate(element, start=1):
        tag = child.tag
        is_list = is_list and tag == ITEM
        content[f"{tag}#{number}" if tag in content else tag] = _content(child, depth + 1)
        pieces.append(child.tail or "")
    text = "".join(pieces).strip()
    if not content:
        return text
    if is_list and not text:
        return list(content.values())
    if text:
        content["#text"] = text
    return content
