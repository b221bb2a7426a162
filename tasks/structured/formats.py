"""The five formats in one table: how each is written, read and compared, and what it can hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from . import csv_format, json_format, toml_format, xml_format, yaml_format
from .compare import difference
from .limits import FormatError
from .values import Value

FormatName = Literal["json", "yaml", "toml", "xml", "csv"]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)


class Writer(Protocol):
    """Writes a value; `one_line` asks for the shortest style of the formats that have several."""

    def __call__(self, value: Value, *, one_line: bool) -> str:
        """Return the text, without a final newline."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format."""

    name: FormatName
    title: str
    write: Writer
    parse: Callable[[str], Value]
    mark: re.Pattern[str]  # what every document of the format contains, so that text without it is no attempt
    as_text: bool  # carries text alone: values are compared as text, and typed naturally when converted from

    def read(self, text: str) -> Value:
        """Parse a text. Raises FormatError, with `absent` set when the text is no attempt at the format."""
        if not self.mark.search(text):
            raise FormatError(f"no {self.title} was found", absent=True)
        return self.parse(text)

    def difference(self, expected: Value, found: Value) -> str | None:
        """Return the first difference between a gold value and a value that was read, or None."""
        return difference(expected, found, as_text=self.as_text)


_TABLE = (
    Format("json", "JSON", json_format.write, json_format.parse, re.compile(r"[\[{]"), as_text=False),
    Format("yaml", "YAML", yaml_format.write, yaml_format.parse, re.compile(r":(?=\s|$)|[\[{]|- "), as_text=False),
    Format("toml", "TOML", toml_format.write, toml_format.parse, re.compile(r"[=\[]"), as_text=False),
    Format("xml", "XML", xml_format.write, xml_format.parse, re.compile(r"<"), as_text=True),
    Format("csv", "CSV", csv_format.write, csv_format.parse, re.compile(r","), as_text=True),
)
FORMATS: dict[str, Format] = {entry.name: entry for entry in _TABLE}
