"""XML: a mapping is child elements, a list is `<key><item>…</item></key>`, everything else is text.

An XML text is read into one shape, `{root: content}`, in which what the convention has no place for keeps a
key that no element can have, so that it shows as a difference: an attribute is `@name`, text between elements
`#text`, and the second `<a>` beside another one `a#2`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from xml.parsers import expat

from .limits import MAX_DEPTH, MAX_NODES, FormatError, check_text
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
    target = _Target()
    # Expat itself: ElementTree's parser, on which defusedxml's stands, does as much work again for each event.
    parser = expat.ParserCreate("utf-8", "}")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler = target.start, target.end
    parser.CharacterDataHandler = target.data
    try:
        parser.Parse(text.strip(), True)
    except expat.ExpatError as error:
        raise FormatError(f"XML: {error}") from None
    return target.root


def _refuse_doctype(*_declared: object) -> None:
    """Refuse the declaration, before which no entity can be declared: nothing expands, and nothing is fetched."""
    raise FormatError("XML: a document type or entity, neither is read")


def _named(name: str) -> str:
    """Return a name as `{namespace}name`; expat leaves the first brace out."""
    return f"{{{name}" if "}" in name else name


@dataclass(slots=True)
class _Open:
    tag: str
    content: dict[str, Value]
    tags: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class _Target:
    """Receives the parser's events and builds the value, within the bounds."""

    def __init__(self) -> None:
        self.root: dict[str, Value] = {}
        self.open: list[_Open] = []
        self.nodes = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Open an element. Raises FormatError when it lies too deep or is one too many."""
        self.nodes += 1 + len(attributes)
        if self.nodes > MAX_NODES:
            raise FormatError(f"XML: more than {MAX_NODES} elements")
        if len(self.open) >= MAX_DEPTH:
            raise FormatError(f"XML: nested deeper than {MAX_DEPTH} levels")
        self.open.append(_Open(_named(tag), {f"@{_named(name)}": text for name, text in attributes.items()}))

    def data(self, text: str) -> None:
        """Take a piece of text."""
        self.open[-1].text.append(text)

    def end(self, _tag: str) -> None:
        """Close an element and place its value in its parent."""
        element = self.open.pop()
        value = _value(element)
        if not self.open:
            self.root[element.tag] = value
            return
        parent = self.open[-1]
        parent.tags.append(element.tag)
        key = element.tag
        if key in parent.content:
            key = f"{key}#{len(parent.tags)}"
        parent.content[key] = value


def _value(element: _Open) -> Value:
    text = "".join(element.text).strip()
    if not element.content:
        return text
    if not text and len(element.tags) == len(element.content) and set(element.tags) == {ITEM}:
        return list(element.content.values())
    if text:
        element.content["#text"] = text
    return element.content
