"""The stream of rows: which task comes at which place, and the document for it."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Split

from . import prompts
from .draw import Draw
from .families import FAMILIES
from .formats import FORMATS, FormatName
from .options import Options
from .prompts import Subject
from .shapes import SIZES, camel_cased, choose, fill, is_held_out, signature
from .traits import Kind, traits_of
from .values import Value

_AWKWARD_SHARE = {"plain": 0.0, "mixed": 0.35, "awkward": 0.8}

_CAMEL_CASE_SHARE = 0.25
"""Share of documents with keys like `unitPrice`. The schema, and so the split, is that of `unit_price`."""

_ATTEMPTS = 1000
"""Draws for one row. One shape in four is held out: a thousand fail only where the options leave no room."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What one row asks for."""

    kind: Kind
    source: FormatName | None
    target: FormatName

    @property
    def is_table(self) -> bool:
        """Whether the document must be a table, which alone fits CSV."""
        return "csv" in (self.source, self.target)


def slot_at(index: int, options: Options) -> Slot:
    """Return the slot of a row: round the targets, for each round the kinds, for conversion the sources."""
    turn, place = divmod(index, len(options.formats))
    target = options.formats[place]
    turn, which = divmod(turn, len(options.kinds))
    kind = options.kinds[which]
    if kind != "conversion":
        return Slot(kind, None, target)
    sources = [source for source in options.sources if source != target]
    return Slot(kind, sources[turn % len(sources)], target)


def stream(split: Split, options: Options) -> Iterator[Row]:
    """Yield rows without end, each of a new document and prompt. Raises UserError when none is left."""
    documents: set[str] = set()
    asked: set[str] = set()
    for index in itertools.count():
        slot = slot_at(index, options)
        rng = random.Random(f"structured/{options.seed}/{split}/{index}")  # noqa: S311 - data, not secrets
        for _ in range(_ATTEMPTS):
            subject = _draw_subject(rng, split, slot, options)
            if subject is None:
                continue
            canonical = _canonical(subject.document)
            prompt = _prompt(rng, subject, slot, options)
            if canonical in documents or prompt in asked:
                continue
            documents.add(canonical)
            asked.add(prompt)
            yield _row(split, index, slot, subject=subject, prompt=prompt, options=options)
            break
        else:
            raise UserError(
                f"structured: no new document for row {index} of {split}: found none in {_ATTEMPTS} draws of "
                f"size {options.size} and families {', '.join(options.families or FAMILIES)}; ask for fewer "
                "rows, more families or a larger size"
            )


def _draw_subject(rng: random.Random, split: Split, slot: Slot, options: Options) -> Subject | None:
    """Draw a document for a slot, or None when its shape belongs to the other split."""
    family = FAMILIES[rng.choice(options.families or tuple(FAMILIES))]
    shape = choose(rng, family, options.size, table=slot.is_table)
    schema = signature(shape)
    if is_held_out(schema) != (split == "heldout"):
        return None
    if options.size != "tiny" and rng.random() < _CAMEL_CASE_SHARE:
        renamed = camel_cased(shape)
        assert isinstance(renamed, dict)
        shape = renamed
    traits = traits_of(slot.kind, slot.source, slot.target)
    draw = Draw(rng, traits, _AWKWARD_SHARE[options.strings])
    document = fill(shape, draw, SIZES[options.size], table=slot.is_table)
    assert isinstance(document, dict)
    return Subject(document, shape, family.name, family.plural if slot.is_table else None, schema)


def _prompt(rng: random.Random, subject: Subject, slot: Slot, options: Options) -> str:
    if slot.source is not None:
        one_line = SIZES[options.size].one_line
        return prompts.conversion(rng, subject, slot.source, slot.target, one_line=one_line)
    if slot.kind == "extraction":
        return prompts.extraction(rng, subject, slot.target)
    return prompts.generation(rng, subject, slot.target)


def _row(split: Split, index: int, slot: Slot, *, subject: Subject, prompt: str, options: Options) -> Row:
    expected = subject.value_in(slot.target)
    digest = hashlib.sha256(_canonical(subject.document).encode()).hexdigest()[:8]
    source = slot.source or {"extraction": "text", "generation": "fields"}[slot.kind]
    system = (Message("system", options.system),) if options.system else ()
    return Row(
        id=f"{split}-{source}-to-{slot.target}-{index:06d}-{digest}",
        prompt=(*system, Message("user", prompt)),
        reference=FORMATS[slot.target].write(expected, one_line=SIZES[options.size].one_line),
        group=slot.target,
        expected=expected,
        metadata={
            "kind": slot.kind,
            "source": source,
            "target": slot.target,
            "family": subject.name,
            "size": options.size,
            "strings": options.strings,
            "schema": subject.schema,
            "document": digest,
            "table": subject.table_key is not None,
        },
    )


def _canonical(value: Value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
