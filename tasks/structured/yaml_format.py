"""YAML: out, block style; in, YAML 1.1 as PyYAML reads it, with differences that make judging fair and safe.

A date stays the text that was written, a key is always the text that was written (`on: 1` has the key "on"),
and aliases, anchors and tags beyond !!str, !!map and !!seq are refused: they expand without bound or make
objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import yaml
from yaml._yaml import CParser

from .limits import MAX_DEPTH, MAX_NODES, BrokenSyntaxError, FormatError, check_number, check_text
from .values import Value

_TAG = "tag:yaml.org,2002:"
_ALLOWED_TAGS = (None, "!", f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq")


class _Dumper(yaml.SafeDumper):
    """Block style with list items indented below their key; strings of several lines as literal blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent list items too: `indentless` is what PyYAML asks for below a key."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write equal objects out twice: anchors are refused when read."""
        return True


_LIKE_A_NUMBER = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+(?::[0-9]+)+"
)
"""Strings to quote: what YAML 1.2 reads as a number (core schema, section 10.3.2), where 1.1 reads some of
it as a string, and every time of day, where 1.1 reads 12:30 as a number and 08:30 as a string."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _LIKE_A_NUMBER.fullmatch(text) else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _string)


def write(value: Value, *, one_line: bool) -> str:  # noqa: ARG001 - YAML has one style at every size
    """Write block style YAML without a final newline. Lines are never folded."""
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1 << 30)
    return text.rstrip("\n")


def parse(text: str) -> Value:
    """Read one YAML document that is a mapping or a list. Raises FormatError.

    The parser of libyaml delivers events one by one, so that depth and size are bounded while reading.
    """
    check_text(text)
    builder = _Builder()
    take = builder.takers()
    try:
        next_event = CParser(text.rstrip("\n") + "\n").get_event
        while (event := next_event()) is not None:
            take[type(event)](event)
    except yaml.YAMLError as error:
        raise BrokenSyntaxError(f"YAML: {_reason(error)}") from None
    root = builder.root
    if not isinstance(root, dict | list):
        raise FormatError("YAML: found a bare value, expected a mapping or a list", absent=True)
    return root


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(error).partition("\n")[0]


class _Builder:
    """Builds the value from events, without recursion and within the bounds."""

    def __init__(self) -> None:
        self.top: list[Value] = []
        self.inner: list[Value] | dict[str, Value] = self.top  # the innermost open container
        self.key: str | None = None  # of a mapping that is open: the key that waits for its value
        self.above: list[list[Value] | dict[str, Value]] = []  # those around it, none of which waits for a value
        self.nodes = 0
        self.documents = 0

    @property
    def root(self) -> Value:
        """The document's value, None where there is none."""
        return self.top[0] if self.top else None

    def takers(self) -> dict[type[yaml.Event], Callable[[Any], None]]:
        """Return what takes each kind of event, and raises FormatError."""
        return {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._mapping,
            yaml.SequenceStartEvent: self._list,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
            yaml.DocumentEndEvent: _nothing,
            yaml.StreamStartEvent: _nothing,
            yaml.StreamEndEvent: _nothing,
        }

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self.nodes += 1
        if event.tag is not None or event.anchor is not None or self.nodes > MAX_NODES:
            self._check(event)
        text: str = event.value
        inner, key = self.inner, self.key
        if key is None and isinstance(inner, dict):
            if text in inner:
                raise FormatError(f"YAML: the key {text[:40]!r} is there twice")
            self.key = text
            return
        value = _plain(text) if event.implicit[0] and event.tag is None and text[:1] in _SPECIAL else text
        if isinstance(inner, list):
            inner.append(value)
        else:
            assert key is not None, "a value is placed in a mapping only after its key"
            inner[key] = value
            self.key = None

    def _mapping(self, event: yaml.MappingStartEvent) -> None:
        self._open(event, {})

    def _list(self, event: yaml.SequenceStartEvent) -> None:
        self._open(event, [])

    def _open(self, event: yaml.CollectionStartEvent, container: list[Value] | dict[str, Value]) -> None:
        self.nodes += 1
        self._check(event)
        if isinstance(self.inner, list):
            self.inner.append(container)
        elif self.key is not None:
            self.inner[self.key] = container
        else:
            raise FormatError("YAML: a list or mapping as a key, expected a string")
        self.above.append(self.inner)
        self.inner, self.key = container, None
        if len(self.above) > MAX_DEPTH:
            raise FormatError(f"YAML: nested deeper than {MAX_DEPTH} levels")

    def _end(self, _event: yaml.CollectionEndEvent) -> None:
        self.inner = self.above.pop()

    def _alias(self, event: yaml.AliasEvent) -> None:
        # the first anchor is refused, so that an alias that is reached has none before it
        raise BrokenSyntaxError(f"YAML: the alias *{event.anchor}, aliases are not read")

    def _document(self, _event: yaml.DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            raise FormatError("YAML: a second document, expected one")

    def _check(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if self.nodes > MAX_NODES:
            raise FormatError(f"YAML: more than {MAX_NODES} values")
        if event.anchor is not None:
            raise FormatError(f"YAML: the anchor &{event.anchor}, anchors are not read")
        if event.tag not in _ALLOWED_TAGS:
            raise FormatError(f"YAML: the tag {event.tag[:60]}, tags are not read")


def _nothing(_event: yaml.Event) -> None:
    """Take an event that says nothing of the value."""


_CACHED_CHARACTERS = 64
"""Longest scalar whose meaning is kept, so that the cache is small whatever is read."""


def _plain(text: str) -> Value:
    """Return what an unquoted scalar means, one that begins as `_SPECIAL` says."""
    return _resolved(text) if len(text) <= _CACHED_CHARACTERS else _resolve(text)


def _resolve(text: str) -> Value:
    tag = str(_RULES.resolve(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)  # type: ignore[no-untyped-call]
    if tag == "null":
        return None
    if tag == "bool":
        return bool(_RULES.bool_values[text.lower()])
    return _number(tag, text) if tag in ("int", "float") else text


_resolved = lru_cache(maxsize=4096)(_resolve)
_RULES = yaml.SafeLoader("")
"""Says what an unquoted scalar means; it reads nothing."""
_SPECIAL = frozenset(_RULES.yaml_implicit_resolvers)
"""How an unquoted scalar begins that may mean something else than its text."""


def _number(tag: str, text: str) -> int | float:
    check_number(text)
    node = yaml.ScalarNode(_TAG + tag, text)
    try:
        number = _RULES.construct_yaml_int(node) if tag == "int" else _RULES.construct_yaml_float(node)
    except (ValueError, IndexError):  # "0b_" and its like match PyYAML's pattern and spell no number
        raise FormatError(f"YAML: {text[:40]!r} looks like a number and is none") from None
    assert isinstance(number, int | float)
    return number
