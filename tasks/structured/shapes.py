"""Shapes: the schema instances of a family, without values. The split into train and held-out is by shape."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .draw import Draw, Leaf
from .values import Value

SizeName = Literal["tiny", "small", "medium", "large"]
Spec: TypeAlias = "Leaf | Mapping[str, Spec] | Many"
Shape: TypeAlias = "Leaf | dict[str, Shape] | ListOf"


@dataclass(frozen=True, slots=True)
class Many:
    """A list in a family: of scalars (a leaf) or of records (a mapping)."""

    of: Leaf | Mapping[str, Spec]


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list in a shape, whose entries all have one shape."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Family:
    """A family of schemas about one thing.

    `name` is the thing and the root element of its XML, `plural` the key of its tables. `brief` holds short
    scalar fields, `more` further ones, `parts` nested mappings and lists. No key may be "item", which XML
    keeps for the entries of lists.
    """

    name: str
    plural: str
    brief: Mapping[str, Leaf]
    more: Mapping[str, Leaf]
    parts: Mapping[str, Mapping[str, Spec] | Many]


@dataclass(frozen=True, slots=True)
class Size:
    """How large documents of a size level are; each pair is the least and the most."""

    fields: tuple[int, int]  # scalar fields at the top
    parts: tuple[int, int]  # nested mappings and lists
    entries: tuple[int, int]  # entries of a list
    columns: tuple[int, int]  # columns of a table
    records: tuple[int, int]  # records of a table
    one_line: bool  # JSON and XML on one line


SIZES: dict[SizeName, Size] = {
    "tiny": Size((3, 4), (0, 0), (2, 2), (2, 2), (2, 2), one_line=True),  # 3 records in XML: 70 tokens
    "small": Size((3, 5), (1, 1), (2, 3), (3, 4), (3, 4), one_line=False),
    "medium": Size((5, 8), (2, 3), (2, 4), (4, 5), (5, 7), one_line=False),
    "large": Size((8, 12), (4, 6), (3, 5), (5, 8), (9, 14), one_line=False),
}


def choose(rng: random.Random, family: Family, size_name: SizeName, *, table: bool) -> dict[str, Shape]:
    """Choose a shape of a family: which fields in which order. A table is one key with a list of records."""
    size = SIZES[size_name]
    fields: dict[str, Leaf] = {**family.brief, **(family.more if size_name != "tiny" else {})}
    if table:
        names = _sample(rng, list(fields), size.columns)
        record: dict[str, Shape] = {name: fields[name] for name in names}
        return {family.plural: ListOf(record)}
    shape: dict[str, Shape] = {name: fields[name] for name in _sample(rng, list(fields), size.fields)}
    for name in _sample(rng, list(family.parts), size.parts):
        shape[name] = _choose_part(rng, family.parts[name])
    return shape


def _sample(rng: random.Random, names: list[str], bounds: tuple[int, int]) -> list[str]:
    return rng.sample(names, min(rng.randint(*bounds), len(names)))


def _choose_part(rng: random.Random, spec: Spec) -> Shape:
    if isinstance(spec, Many):
        return ListOf(_choose_part(rng, spec.of))
    if isinstance(spec, Mapping):
        return {name: _choose_part(rng, spec[name]) for name in _sample(rng, list(spec), (2, len(spec)))}
    return spec


def paths(shape: Shape, prefix: str = "") -> Iterator[str]:
    """Yield the paths of a shape's leaves, such as `customer.name` and `lines[].price`."""
    if isinstance(shape, ListOf):
        yield from paths(shape.of, f"{prefix}[]")
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            yield from paths(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix


def signature(shape: Shape) -> str:
    """Return a hash of the set of paths (16 hexadecimal digits).

    Neither the family nor the order counts, nor the key of a table, which CSV leaves out: documents that
    could be equal must fall on one side of the split.
    """
    if isinstance(shape, dict) and len(shape) == 1:
        (shape,) = shape.values()
    return hashlib.sha256("\n".join(sorted(paths(shape))).encode()).hexdigest()[:16]


def is_held_out(shape_signature: str) -> bool:
    """Tell the side of the split: a quarter of all shapes is held out, whatever the seed and the options."""
    return int(shape_signature, 16) % 4 == 0


def camel_cased(shape: Shape) -> Shape:
    """Return the shape with keys such as `unitPrice` for `unit_price`."""
    if isinstance(shape, ListOf):
        return ListOf(camel_cased(shape.of))
    if isinstance(shape, dict):
        return {_camel_case(key): camel_cased(inner) for key, inner in shape.items()}
    return shape


def _camel_case(key: str) -> str:
    first, *others = key.split("_")
    return first + "".join(word.capitalize() for word in others)


def fill(shape: Shape, draw: Draw, size: Size, *, table: bool = False) -> Value:
    """Return a document of a shape."""
    if isinstance(shape, ListOf):
        if not table and not isinstance(shape.of, dict) and _is_empty(draw):
            return []
        count = draw.rng.randint(*(size.records if table else size.entries))
        return [fill(shape.of, draw, size) for _ in range(count)]
    if isinstance(shape, dict):
        return {key: fill(inner, draw, size, table=table) for key, inner in shape.items()}
    if draw.null_share and draw.rng.random() < draw.null_share:
        return None
    return shape(draw)


def _is_empty(draw: Draw) -> bool:
    return draw.traits.empty_list and draw.awkward_share > 0 and draw.rng.random() < 0.08
