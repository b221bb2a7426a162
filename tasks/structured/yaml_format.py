"""YAML: out, block style; in, YAML 1.1 as PyYAML reads it, with differences that make judging fair and safe.

A date stays the text that was written, a key is always the text that was written (`on: 1` has the key "on"),
and aliases, anchors and tags beyond !!str, !!map and !!seq are refused: they expand without bound or make
objects.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import yaml

from .limits import MAX_DEPTH, MAX_NODES, FormatError, check_number, check_text
from .values import Value

_TAG = "tag:yaml.org,2002:"
_ALLOWED_TAGS = (None, "!", f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq")


class YamlSyntaxError(FormatError):
    """What no parser of YAML reads, unlike what is only refused here."""


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
    loader = yaml.CSafeLoader(text.rstrip("\n") + "\n")
    try:
        builder = _Builder()
        while (event := loader.get_event()) is not None:
            builder.take(event)
    except yaml.YAMLError as error:
        raise YamlSyntaxError(f"YAML: {_reason(error)}") from None
    finally:
        loader.dispose()
    if not isinstance(builder.root, dict | list):
        raise FormatError("YAML: found a bare value, expected a mapping or a list", absent=True)
    return builder.root


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(error).partition("\n")[0]


class _Builder:
    """Builds the value from events, without recursion and within the bounds."""

    def __init__(self) -> None:
        self.root: Value = None
        self.open: list[list[Value] | dict[str, Value]] = []
        self.keys: list[str | None] = []  # per open container: the key that waits for its value
        self.nodes = 0
        self.documents = 0

    def take(self, event: yaml.Event) -> None:
        """Use one event. Raises FormatError."""
        if isinstance(event, yaml.ScalarEvent):
            self._check(event)
            if self.open and self.keys[-1] is None and type(self.open[-1]) is dict:
                self._take_key(event.value)
            else:
                self._place(_plain(event.value) if event.tag is None and event.implicit[0] else event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check(event)
            if self.open and self.keys[-1] is None and type(self.open[-1]) is dict:
                raise FormatError("YAML: a list or mapping as a key, expected a string")
            container: list[Value] | dict[str, Value] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._place(container)
            self.open.append(container)
            self.keys.append(None)
            if len(self.open) > MAX_DEPTH:
                raise FormatError(f"YAML: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()
            self.keys.pop()
        elif isinstance(event, yaml.AliasEvent):
            # the first anchor is refused, so that an alias that is reached has none before it
            raise YamlSyntaxError(f"YAML: the alias *{event.anchor}, aliases are not read")
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise FormatError("YAML: a second document, expected one")

    def _check(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise FormatError(f"YAML: more than {MAX_NODES} values")
        if event.anchor is not None:
            raise FormatError(f"YAML: the anchor &{event.anchor}, anchors are not read")
        if event.tag not in _ALLOWED_TAGS:
            raise FormatError(f"YAML: the tag {event.tag[:60]}, tags are not read")

    def _take_key(self, key: str) -> None:
        mapping = self.open[-1]
        assert isinstance(mapping, dict)
        if key in mapping:
            raise FormatError(f"YAML: the key {key[:40]!r} is there twice")
        self.keys[-1] = key

    def _place(self, value: Value) -> None:
        if not self.open:
            self.root = value
            return
        container = self.open[-1]
        if isinstance(container, list):
            container.append(value)
            return
        key = self.keys[-1]
        assert key is not None, "a value is placed in a mapping only after its key"
        container[key] = value
        self.keys[-1] = None


_CACHED_CHARACTERS = 64
"""Longest scalar whose meaning is kept, so that the cache is small whatever is read."""


def _plain(text: str) -> Value:
    """Return what an unquoted scalar means."""
    if text[:1] not in _RULES.yaml_implicit_resolvers:
        return text
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


def _number(tag: str, text: str) -> int | float:
    check_number(text)
    node = yaml.ScalarNode(_TAG + tag, text)
    try:
        number = _RULES.construct_yaml_int(node) if tag == "int" else _RULES.construct_yaml_float(node)
    except (ValueError, IndexError):  # "0b_" and its like match PyYAML's pattern and spell no number
        raise FormatError(f"YAML: {text[:40]!r} looks like a number and is none") from None
    assert isinstance(number, int | float)
    return number
