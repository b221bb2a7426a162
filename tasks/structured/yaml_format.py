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
from yaml import ScalarEvent
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
    try:
        value = _value(CParser(text.rstrip("\n") + "\n").get_event)
    except yaml.YAMLError as error:
        raise BrokenSyntaxError(f"YAML: {_reason(error)}") from None
    if not isinstance(value, dict | list):
        raise FormatError("YAML: found a bare value, expected a mapping or a list", absent=True)
    return value


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(error).partition("\n")[0]


def _value(next_event: Callable[[], Any]) -> Value:
    """Build the value from events, without recursion and within the bounds; None where there is no document.

    One loop over local names: with a method for each of a hundred events a document took a sixth more time.
    """
    top: list[Value] = []
    inner: Any = top  # the innermost open list or mapping
    key: str | None = None  # where that is a mapping: the key that waits for its value
    above: list[Any] = []  # what is open around it
    nodes = 0
    while (event := next_event()) is not None:
        kind = type(event)
        if kind is ScalarEvent:
            value = event.value
        elif kind in _CONTAINERS:
            value = _CONTAINERS[kind]()
        elif kind in _ENDS:
            inner = above.pop()
            continue
        else:
            _check_rare(event, top)
            continue
        nodes += 1
        if event.tag is not None or event.anchor is not None or nodes > MAX_NODES:
            _check(event, nodes)
        if key is None and type(inner) is dict:
            _check_key(value, inner)
            key = value
            continue
        if kind is ScalarEvent and event.implicit[0] and event.tag is None and value[:1] in _SPECIAL:
            value = _plain(value)
        if key is None:
            inner.append(value)
        else:
            inner[key] = value
            key = None
        if kind is not ScalarEvent:
            above.append(inner)
            inner = value
            if len(above) > MAX_DEPTH:
                raise FormatError(f"YAML: nested deeper than {MAX_DEPTH} levels")
    return top[0] if top else None


_CONTAINERS: dict[type[yaml.Event], Callable[[], Value]] = {yaml.MappingStartEvent: dict, yaml.SequenceStartEvent: list}
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def _check(event: yaml.ScalarEvent | yaml.CollectionStartEvent, nodes: int) -> None:
    if nodes > MAX_NODES:
        raise FormatError(f"YAML: more than {MAX_NODES} values")
    if event.anchor is not None:
        raise FormatError(f"YAML: the anchor &{event.anchor}, anchors are not read")
    if event.tag not in _ALLOWED_TAGS:
        raise FormatError(f"YAML: the tag {event.tag[:60]}, tags are not read")


def _check_key(key: Value, mapping: dict[str, Value]) -> None:
    if not isinstance(key, str):
        raise FormatError("YAML: a list or mapping as a key, expected a string")
    if key in mapping:
        raise FormatError(f"YAML: the key {key[:40]!r} is there twice")


def _check_rare(event: yaml.Event, read: list[Value]) -> None:
    """Refuse an alias and a second document; the events left say nothing of the value."""
    if isinstance(event, yaml.AliasEvent):
        # the first anchor is refused, so that an alias that is reached has none before it
        raise BrokenSyntaxError(f"YAML: the alias *{event.anchor}, aliases are not read")
    if isinstance(event, yaml.DocumentStartEvent) and read:
        raise FormatError("YAML: a second document, expected one")


_CACHED_CHARACTERS = 64
"""Longest scalar whose meaning is kept, so that the cache is small whatever is read."""


def _plain(text: str) -> Value:
    """Return what an unquoted scalar means, one that begins as `_SPECIAL` says."""
    return _resolved(text) if len(text) <= _CACHED_CHARACTERS else _resolve(text)


_USUAL_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17}+)(\.[0-9]{1,18}+)?")
"""A number that PyYAML reads as Python does; its own rules take ten times as long."""


def _resolve(text: str) -> Value:
    usual = _USUAL_NUMBER.fullmatch(text)
    if usual:
        return float(text) if usual[1] else int(text)
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
