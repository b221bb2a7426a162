"""Is a payload what its format asks for? One strict parser per format, for text that may be hostile."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

MAX_CHARACTERS = 4 << 20
"""Longest payload that is parsed. A training row has a few thousand characters."""
MAX_SECONDS = 10.0
"""CPU seconds for one payload. Honest text takes milliseconds; a TOML key of 100,000 dots takes hours."""
MAX_MERGED = 100_000
"""Most entries of one YAML mapping after its merge keys (`<<`), which double with every level."""
_YAML_MERGE = "tag:yaml.org,2002:merge"


class InvalidError(Exception):
    """Why a payload is not valid."""


class _TooSlowError(Exception):
    pass


def check_payload(name: str, text: str, seconds: float = MAX_SECONDS) -> str | None:
    """Return why a text is not valid in the format `name` (one of FORMATS), in one line; None if it is.

    Must be called in the main thread, for the limit of time is a signal.
    """
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters; at most {MAX_CHARACTERS} are read"
    if not text.strip():
        return "empty"
    try:
        with _cpu_seconds(seconds):
            _PARSERS[name](text.strip("\r\n"))
    except InvalidError as error:
        fence = "; it begins with a ``` fence" if text.lstrip().startswith("```") else ""
        return re.sub(r"\s+", " ", str(error)).strip() + fence
    except RecursionError:
        return "nested too deep to be read"
    except _TooSlowError:
        return f"takes more than {seconds:g} s to read"
    return None


@contextmanager
def _cpu_seconds(limit: float) -> Iterator[None]:
    """End what runs inside after so many seconds of the CPU. The parsers that can take long are Python: a signal ends them.

    It comes again until it has: Python ignores an error that is raised while it cleans up after an object.
    """
    over = False

    def stop(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if not over:
            raise _TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit, limit)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _json(text: str) -> None:
    def refuse(word: str) -> None:
        raise InvalidError(f"found {word}, which JSON does not have")

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:  # besides what JSON itself says: a number of more than 4300 digits
        raise InvalidError(str(error)) from None


def _yaml(text: str) -> None:
    """As yaml.safe_load reads it; a bare value is no document: every text would be one.

    Not by libyaml, which is seven times as fast: it accepts and refuses other texts, and dies of 200,000 levels.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if "<<" in text:
            _check_merges(node)
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InvalidError(
            f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(error)
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date without such a day, a number of 5000 digits
        raise InvalidError(str(error)) from None
    except (AttributeError, LookupError):  # how PyYAML's constructors fail at `!!timestamp x`, `!!bool x`, `!!int _`
        raise InvalidError("a value that is not what its tag says") from None
    if not isinstance(value, dict | list):
        raise InvalidError(f"found a bare value ({type(value).__name__}), expected a mapping or a list")


def _check_merges(root: Any) -> None:
    import yaml

    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        """How many entries a mapping has once its merge keys are followed."""
        if id(node) not in sizes:
            sizes[id(node)] = 0  # a mapping that merges itself adds nothing
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            sizes[id(node)] = sum(
                sum(size(one) for one in (value.value if isinstance(value, yaml.SequenceNode) else [value]))
                if key.tag == _YAML_MERGE
                else 1
                for key, value in pairs
            )
        return sizes[id(node)]

    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or node is None:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            if size(node) > MAX_MERGED:
                raise InvalidError(f"merge keys (<<) that make a mapping of more than {MAX_MERGED} entries")
            waiting += [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _toml(text: str) -> None:
    try:
        tomllib.loads(text)
    except ValueError as error:
        raise InvalidError(str(error)) from None


def _xml(text: str) -> None:
    """Well-formed; no tree is built, and entities, which can grow without bound, are refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    parser = DefusedXMLParser(target=_Nothing())
    try:
        parser.feed(text.strip())
        parser.close()
    except ParseError as error:
        hint = "" if text.lstrip().startswith("<") else "; it does not start with <"
        raise InvalidError(f"{error}{hint}") from None
    except DefusedXmlException as error:
        raise InvalidError(f"an entity of its own, which is not read: {error}") from None
    except ValueError as error:  # half of a surrogate pair
        raise InvalidError(str(error)) from None


class _Nothing:
    """Takes the parser's events."""

    def close(self) -> None:
        """End of the document."""


def _csv(text: str) -> None:
    if "\0" in text:
        raise InvalidError("a NUL character")
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise InvalidError(str(error)) from None
    if len(lines) < 2:
        raise InvalidError(f"found {len(lines)} line, expected a header and at least one row")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(lines[0]):
            raise InvalidError(f"row {number} has {len(line)} cells, the header has {len(lines[0])}")


_PARSERS: dict[str, Callable[[str], None]] = {"json": _json, "yaml": _yaml, "toml": _toml, "xml": _xml, "csv": _csv}
