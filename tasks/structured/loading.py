"""Reading a text as the usual parser of its format does, within the bounds: what published scores are made with.

These loaders forgive what the pack's own parsers refuse (repeated keys, NaN, bare values, ragged rows), because `lenient`
and `compatible` must give the verdicts of `json.loads`, `yaml.safe_load`, `tomllib.loads`, ElementTree and `csv`.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import yaml
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from .formats import FORMATS
from .limits import MAX_DEPTH, MAX_NODES, BrokenSyntaxError, FormatError, check_text
from .values import Value

MAX_SLOW_YAML = 6 * 1024
"""Longest YAML, in bytes, that PyYAML's own parser reads: it takes 5 ms for 1 KiB. Answers to StructEval-T have at most 4."""

_DATE = re.compile(
    r"([0-9](?<![0-9]{2})[0-9]{3})-([0-9]{1,2})-([0-9]{1,2})(?![0-9])"
    r"(?:[Tt \t]+([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.0-9]*[ \t]*[-+]([0-9]{1,2}))?)?"
)
_OWN_TO_PYYAML = re.compile(
    r"[\t\x85\u2028\u2029\ufeff%<:\-=|>{\[,](?:(?<=[\t\x85\u2028\u2029\ufeff])|(?<=\n%)|(?<=<)<|(?<=[:-]) =(?:\s|\Z)"
    r"|(?<=\n=)|(?<=[|>])[-+0-9]*+#|(?<=[{\[,])\s*+[^\"'\n{}\[\],?]*+\?)"
)
"""Where libyaml and PyYAML's parser are known to differ, and what they make of it only when values are built.

Both patterns begin with a class of characters and look behind afterwards: so `re` skips what is none, in a third of the time.
"""


@lru_cache(maxsize=4)
def read_strictly(name: str, text: str) -> tuple[Value, FormatError | None]:
    """Return what the pack's own parser reads, or why it refuses; kept, because three modes ask for the same text."""
    try:
        return FORMATS[name].parse(text), None
    except FormatError as error:
        return None, error


def parses(name: str, text: str) -> bool:
    """Tell whether `load` would return a value. What the pack's own parser reads, the usual ones read, but for odd YAML."""
    if name != "yaml" and read_strictly(name, text)[1] is None:
        return True
    try:
        load(name, text)
    except FormatError:
        return False
    return True


def load(name: str, text: str) -> Any:
    """Return what the usual parser of the format `name` reads from `text`; the value must not be changed, for it may be kept.

    XML becomes `{root: content}` with `@attribute`, `#text` and lists of repeated elements; CSV a list of rows.
    Raises FormatError for what that parser refuses, and for what is beyond the bounds (limits.py).
    """
    value, error = _read_as_usual(name, text)
    if error is not None:
        raise FormatError(str(error))
    return value


@lru_cache(maxsize=4)
def _read_as_usual(name: str, text: str) -> tuple[Any, FormatError | None]:
    value, error = read_strictly(name, text)
    if _decides(name, text, error):
        return value, error
    try:
        check_text(text)
        return _LOADERS[name](text), None
    except FormatError as refused:
        return None, refused
    except (ValueError, RecursionError) as refused:
        return None, FormatError(str(refused).partition("\n")[0])


def _decides(name: str, text: str, error: FormatError | None) -> bool:
    """Whether the usual parser returns the value, or refuses the text, as the pack's own did, with that error or none."""
    if name == "toml":  # the pack reads it with tomllib, too
        return True
    if isinstance(error, BrokenSyntaxError):
        return "\ufeff" not in text
    return error is None and (name == "json" or (name == "yaml" and not _is_odd_yaml(text)))


def _is_odd_yaml(text: str) -> bool:
    """Whether PyYAML's own parser might read, or refuse, what libyaml reads; and whether a date might be none (2024-02-30)."""
    if _OWN_TO_PYYAML.search(f"\n{text}"):
        return True
    for match in _DATE.finditer(text):
        year, month, day, hour, minute, second, zone = (int(part or 0) for part in match.groups())
        try:
            datetime.datetime(
                year, month, day, hour, minute, second, tzinfo=datetime.timezone(datetime.timedelta(hours=zone))
            )
        except ValueError:
            return True
    return False


def _slow_yaml(text: str) -> Any:
    """As yaml.safe_load, in Python alone: a twentieth as fast as libyaml, which reads the rest."""
    if len(text.encode()) > MAX_SLOW_YAML:
        raise FormatError(f"YAML that needs a slow parser: more than {MAX_SLOW_YAML} bytes")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_merges(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise FormatError(f"YAML: {error}".partition("\n")[0]) from None
    except (AttributeError, LookupError, TypeError, OverflowError):  # how constructors fail at `!!bool x`, `!!int _`
        raise FormatError("YAML: a value that is not what its tag says") from None


def _check_merges(root: yaml.Node) -> None:
    """Refuse merge keys (`<<`) that together make more than MAX_NODES entries: each level can double them."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 0  # a mapping that merges itself adds nothing
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            for key, value in pairs:
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                sizes[id(node)] += sum(map(size, merged)) if key.tag == "tag:yaml.org,2002:merge" else 1
            if sizes[id(node)] > MAX_NODES:
                raise FormatError(f"YAML: merge keys that make more than {MAX_NODES} entries")
        return sizes[id(node)]

    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            size(node)
            waiting += [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _xml(text: str) -> Any:
    target = _Tree()
    parser = DefusedXMLParser(target=target)
    try:
        parser.feed(text)
        parser.close()
    except ET.ParseError as error:
        raise FormatError(f"XML: {error}") from None
    except DefusedXmlException:
        raise FormatError("XML: an entity of its own, which is not read") from None
    return target.root


class _Tree:
    """Receives the parser's events and builds the value, within the bounds."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self.open: list[tuple[dict[str, Any], list[str]]] = [(self.root, [])]
        self.nodes = 0

    def start(self, _tag: str, attributes: dict[str, str]) -> None:
        """Open an element. Raises FormatError when it lies too deep or is one too many."""
        self.nodes += 1 + len(attributes)
        if self.nodes > MAX_NODES or len(self.open) > MAX_DEPTH:
            raise FormatError(f"XML: more than {MAX_NODES} elements or nested deeper than {MAX_DEPTH} levels")
        self.open.append(({f"@{name}": text for name, text in attributes.items()}, []))

    def data(self, text: str) -> None:
        """Take a piece of text."""
        self.open[-1][1].append(text)

    def end(self, tag: str) -> None:
        """Close an element and place it in its parent; the second of a name makes a list."""
        content, pieces = self.open.pop()
        text = "".join(pieces).strip()
        if content and text:
            content["#text"] = text
        value = content or text or None
        above = self.open[-1][0]
        if tag not in above:
            above[tag] = value
        elif isinstance(above[tag], list):
            above[tag].append(value)
        else:
            above[tag] = [above[tag], value]

    def close(self) -> None:
        """End the document; the value is in `root`."""


def _csv(text: str) -> Any:
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise FormatError(f"CSV: {error}") from None


_LOADERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "yaml": _slow_yaml,
    "xml": _xml,
    "csv": _csv,
}
