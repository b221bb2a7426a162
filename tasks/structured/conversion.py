"""Whether an answer holds the same values as the document it was converted from, whatever sensible shape it chose.

JSON, YAML and TOML hold typed trees: a conversion between them must be equal. XML and CSV have no one mapping to trees, so
each of the usual ones counts, and no other:

- XML: repeated elements are a list, also one under an element that holds nothing else; attributes are keys, with or without
  `@`, `_` or `-` before them; text beside attributes is `#text`, `_text`, `text`, `value`, `_` or `$`; the root may be left
  out of a tree and may be put around one; a character that no name may hold is `_`. Values are compared as text.
- CSV: the records are a list, under one key or not; a single record may stand without its list. A header that is a path
  (`moons[0].name`) may be nested or stay as it is; in a CSV a path may be written with any signs between its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from .compare import difference
from .values import Value, number_in

Element: TypeAlias = Value
"""An element as xml_format reads it: text, a list of `item`, or a mapping with `@name`, `#text` and `name#2`."""

_TYPED = ("json", "yaml", "toml")
_TEXT_KEYS = ("#text", "_text", "text", "value", "_", "$")
_ATTRIBUTE_MARKS = ("@", "", "_", "-")
_PATH_PART = re.compile(r"[^.\[\]/]+")
_NO_NAME = re.compile(r"[^\w.\-]")
_SIGNS = re.compile(r"[\W_]+")


def conversion_error(source_format: str, source: Value, answer_format: str, answer: Value) -> str | None:
    """Return why `answer` (as its format's parser gives it) does not hold the values of `source`, or None if it does."""
    if source_format in _TYPED and answer_format in _TYPED:
        return difference(source, answer, as_text=False)
    if answer_format == "csv":
        same = any(_tabular(records, answer) for records in _records(source_format, source))
    elif "xml" in (source_format, answer_format):
        tree, element = (answer, source) if source_format == "xml" else (source, answer)
        values = _trees(tree) if source_format == "csv" else [tree]
        same = any(_root_holds(element, value) for value in values)
    else:
        same = any(_same(value, answer) for value in _trees(source))
    return None if same else f"the values are not those of the {source_format.upper()} in the task"


def _root_holds(document: Element, value: Value) -> bool:
    assert isinstance(document, dict), "an XML document is a mapping of its root"
    ((tag, root),) = document.items()
    if isinstance(value, dict) and len(value) == 1:
        ((key, inner),) = value.items()
        if _name(key) == tag and _holds(root, inner):
            return True
    return _holds(root, value)


def _holds(element: Element, value: Value) -> bool:
    """Tell whether an element says what a value says."""
    attributes, children, text = _parts(element)
    if not attributes and not children:
        return _same_text(text, value)
    if isinstance(value, list):
        bare = not attributes and not text and len({tag for tag, _ in children}) == 1
        return bare and _each_holds([child for _, child in children], value)
    return isinstance(value, dict) and _holds_mapping(attributes, children, text, value)


def _holds_mapping(
    attributes: dict[str, str], children: list[tuple[str, Element]], text: str, value: dict[str, Value]
) -> bool:
    left = {_name(key): inner for key, inner in value.items()}
    if len(left) != len(value):
        return False
    texts = [([_name(mark + name) for mark in _ATTRIBUTE_MARKS], said) for name, said in attributes.items()]
    if text:
        texts.append((list(_TEXT_KEYS), text))
    for names, said in texts:
        name = next((name for name in names if name in left), None)
        if name is None or not _same_text(said, left.pop(name)):
            return False
    by_tag: dict[str, list[Element]] = {}
    for tag, child in children:
        by_tag.setdefault(tag, []).append(child)
    if not all(tag in left and _all_hold(members, left.pop(tag)) for tag, members in by_tag.items()):
        return False
    return all(inner is None or inner == [] for inner in left.values())


def _all_hold(members: list[Element], value: Value) -> bool:
    if len(members) == 1 and _holds(members[0], value):
        return True
    return isinstance(value, list) and _each_holds(members, value)


def _each_holds(elements: list[Element], values: list[Value]) -> bool:
    return len(elements) == len(values) and all(map(_holds, elements, values))


def _parts(element: Element) -> tuple[dict[str, str], list[tuple[str, Element]], str]:
    """Take an element apart: attributes, children with their tags, text."""
    if isinstance(element, list):
        return {}, [("item", inner) for inner in element], ""
    if not isinstance(element, dict):
        return {}, [], str(element)
    attributes, children, text = {}, [], ""
    for key, inner in element.items():
        if key.startswith("@"):
            attributes[key[1:]] = str(inner)
        elif key == "#text":
            text = str(inner)
        else:
            children.append((key.partition("#")[0], inner))
    return attributes, children, text


def _name(key: str) -> str:
    """Return a key as an element can be named: `#text` is itself, a space is `_`."""
    return key if key in _TEXT_KEYS or key.startswith("@") else _NO_NAME.sub("_", key)


def _same_text(text: str, value: Value) -> bool:
    """Tell whether a text says what a scalar says; nothing, null and an empty list or mapping are said by an empty text."""
    if value is None or isinstance(value, dict | list):
        return not text and not value
    if isinstance(value, bool):
        return text.lower() == ("true" if value else "false")
    if isinstance(value, int | float):
        return number_in(text.strip()) == value
    if text.strip() == value.strip():
        return True
    number = number_in(text.strip())
    return number is not None and number == number_in(value.strip())


def _same(expected: Value, found: Value) -> bool:
    """Compare values from CSV (text) with a typed tree; a cell without text may be missing there."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or any(key not in expected for key in found):
            return False
        return all(_same(inner, found.get(key)) for key, inner in expected.items())
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) > len(expected):
            return False
        padded = found + [None] * (len(expected) - len(found))
        return all(_same(inner, other) for inner, other in zip(expected, padded, strict=True))
    if isinstance(found, dict | list):
        return False
    return _same_text(str(expected), found)


def _trees(records: Value) -> Iterator[Value]:
    """Yield the trees that may stand for the records of a CSV."""
    assert isinstance(records, list), "a CSV document is a list of records"
    nested = [_nested(record) for record in records if isinstance(record, dict)]
    for rows in (records, nested):
        yield rows
        if len(rows) == 1:
            yield rows[0]


def _nested(record: dict[str, Value]) -> Value:
    """Turn `moons[0].name` into lists and mappings; a record whose headers contradict one another stays as it is."""
    tree: dict[str, Value] = {}
    for header, cell in record.items():
        node = tree
        *above, last = _PATH_PART.findall(header) or [header]
        for part in above:
            inner = node.setdefault(part, {})
            if not isinstance(inner, dict):
                return record
            node = inner
        if last in node:
            return record
        node[last] = cell
    return _lists(tree)


def _lists(tree: Value) -> Value:
    """Turn mappings with the keys 0, 1, ... into lists."""
    if not isinstance(tree, dict):
        return tree
    inner = [(key, _lists(value)) for key, value in tree.items()]
    if inner and [key for key, _ in inner] == [str(number) for number in range(len(inner))]:
        return [value for _, value in inner]
    return dict(inner)


def _records(name: str, source: Value) -> Iterator[list[Value]]:
    """Yield the lists of records that a document may be a table of."""
    if name == "xml":
        source = _tree_of(source)
    seen = 0
    while isinstance(source, dict) and len(source) == 1 and seen < 3:  # a root, a container
        yield [source]
        (source,) = source.values()
        seen += 1
    yield source if isinstance(source, list) else [source]


def _tree_of(element: Element) -> Value:
    attributes, children, text = _parts(element)
    if not attributes and not children:
        return text
    tree: dict[str, Value] = dict(attributes)
    if text:
        tree["text"] = text
    tags = [tag for tag, _ in children]
    if tags and len(set(tags)) == 1 and len(tags) > 1 and not tree:
        return [_tree_of(child) for _, child in children]
    for tag, child in children:
        value = _tree_of(child)
        if tags.count(tag) == 1:
            tree[tag] = value
        else:
            many = tree.setdefault(tag, [])
            if not isinstance(many, list):
                return None  # an attribute and repeated elements of one name: no table says that
            many.append(value)
    return tree


def _tabular(records: list[Value], answer: Value) -> bool:
    """Tell whether the records of a CSV are `records`, each as a flat line."""
    if not isinstance(answer, list) or len(answer) != len(records):
        return False
    for record, line in zip(records, answer, strict=True):
        if not isinstance(record, dict) or not isinstance(line, dict):
            return False
        wanted = dict(_flat(record, ""))
        found = {_SIGNS.sub("", header): cell for header, cell in line.items()}
        if len(found) != len(line) or any(key not in wanted and cell != "" for key, cell in found.items()):
            return False
        if not all(_same_cell(found.get(key, ""), value) for key, value in wanted.items()):
            return False
    return True


def _flat(value: dict[str, Value], above: str) -> Iterator[tuple[str, Value]]:
    for key, inner in value.items():
        path = above + _SIGNS.sub("", key)
        if isinstance(inner, dict):
            yield from _flat(inner, path)
        elif isinstance(inner, list) and any(isinstance(one, dict | list) for one in inner):
            yield from _flat({str(number): one for number, one in enumerate(inner)}, path)
        else:
            yield path, inner


def _same_cell(cell: Value, value: Value) -> bool:
    """Compare a cell; a list of scalars is one cell, parted by `;`, `|` or commas."""
    assert isinstance(cell, str), "the cells of a CSV are text"
    if not isinstance(value, list) or not value:
        return _same_text(cell, value)
    for sign in (";", "|", ","):
        parts = [part.strip() for part in cell.split(sign)]
        if len(parts) == len(value) and all(map(_same_text, parts, value)):
            return True
    return False
