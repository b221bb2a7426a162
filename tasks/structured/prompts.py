"""The wording of the prompts: short, and complete in the sense that one value alone is the right answer."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .formats import FORMATS, FormatName
from .prose import outline, tell
from .shapes import Shape, paths
from .values import Value


@dataclass(frozen=True, slots=True)
class Subject:
    """What a prompt is about: a document, its shape, and the names that the formats need."""

    document: dict[str, Value]
    shape: dict[str, Shape]
    name: str  # the thing, and the root element of its XML
    table_key: str | None  # the one key of a table document; None for any other document
    schema: str  # signature of the shape (shapes.py)

    def value_in(self, format_name: FormatName) -> Value:
        """Return the value as a format holds it: XML adds the root element, CSV has the records alone."""
        if self.table_key is not None:
            return self.document[self.table_key] if format_name == "csv" else dict(self.document)
        return {self.name: self.document} if format_name == "xml" else self.document


def conversion(rng: random.Random, subject: Subject, source: FormatName, target: FormatName, *, one_line: bool) -> str:
    """Return the prompt that asks for a document in another format, the source text included."""
    text = FORMATS[source].write(subject.value_in(source), one_line=one_line)
    opening = rng.choice(("Convert this {} to {}", "Write this {} as {}", "Turn this {} into {}"))
    asked = opening.format(FORMATS[source].title, FORMATS[target].title)
    return f"{asked}{_conversion_detail(subject, source, target)}:\n{text}"


def _conversion_detail(subject: Subject, source: FormatName, target: FormatName) -> str:
    if subject.table_key is None:
        if target == "xml":
            return _root_detail(subject, target)
        return " without the root element" if source == "xml" else ""
    if source != "csv":
        return ""
    if target == "xml":
        return f" with root <{subject.table_key}> and one <item> per row"
    return f', the rows under "{subject.table_key}"'


def extraction(rng: random.Random, subject: Subject, target: FormatName) -> str:
    """Return the prompt that tells a document in English and asks for it in a format."""
    told = tell(rng, subject.name, subject.document)
    opening = rng.choice(("Write this as {}", "Give this as {}", "Put this into {}"))
    asked = f"{opening.format(FORMATS[target].title)}{_root_detail(subject, target)}"
    if target == "csv" and subject.table_key is not None:
        keys = f"columns {outline(subject.shape[subject.table_key]).strip('[{}]')}"
    else:
        keys = f"keys {outline(subject.shape)}"
    return f"{asked}, {keys}:\n{told}"


def generation(rng: random.Random, subject: Subject, target: FormatName) -> str:
    """Return the prompt that lists the fields as `path = value`, the value in JSON, and asks for a format."""
    opening = rng.choice(("Write these fields as {}", "Make {} from these fields", "Put these fields into {}"))
    asked = f"{opening.format(FORMATS[target].title)}{_root_detail(subject, target)}"
    if target == "csv":
        asked += f", one row for each of {subject.table_key}"
    return f"{asked}:\n" + "\n".join(_field_lines(subject.document))


def _root_detail(subject: Subject, target: FormatName) -> str:
    if target != "xml":
        return ""
    entries = " and list entries as <item>" if any("[]" in path for path in paths(subject.shape)) else ""
    return f" with root <{subject.name}>{entries}"


def _field_lines(value: Value, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _field_lines(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for i, inner in enumerate(value):
            yield from _field_lines(inner, f"{path}[{i}]")
    else:
        yield f"{path} = {json.dumps(value, ensure_ascii=False)}"
