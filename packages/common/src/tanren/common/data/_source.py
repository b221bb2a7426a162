"""Sources of rows: what a name means, and every row of it, in order, read or told as a fault."""

from __future__ import annotations

import difflib
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, cast

from tanren.common.data._column_rows import read_csv, read_parquet
from tanren.common.data._json_rows import read_json
from tanren.common.data._layouts import AUTO, LAYOUTS, check_turns, row_of
from tanren.common.data._prompts import PROMPT, prompt_row_of
from tanren.common.data._records import Fault, FaultyRowError, Record
from tanren.common.errors import UserError
from tanren.common.task_contract import Row

PACK = "pack:"
JSON_LINES = (".jsonl", ".ndjson")
TEXTS = (*JSON_LINES, ".json", ".csv")
GZIP = ".gz"
SUFFIXES = (*TEXTS, *(suffix + GZIP for suffix in TEXTS), ".parquet")
PARQUET_MAGIC = b"PAR1"
GZIP_MAGIC = b"\x1f\x8b"
MOST_FAULTS = 10
"""After so many faults of one source the list is cut: the first ones show what is wrong."""
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")

Kind = Literal["file", "hub", "pack"]


@dataclass(frozen=True)
class Source:
    """Where rows come from."""

    name: str
    """A file, a dataset on the Hugging Face hub (`owner/name`, or `owner/name:config`), or a task pack (`pack:NAME`)."""
    split: str = "train"
    """Of a hub dataset or a task pack; a file has no other."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    layout: str = AUTO
    """How a row is laid out; auto: told by its keys, row by row."""

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """Return a file as a source, also where its path looks like the name of a hub dataset."""
        path = path.expanduser()
        return cls(str(path) if path.is_absolute() else f"./{path}")

    @property
    def kind(self) -> Kind:
        """What the name means; a file that is there comes before a dataset of the same name."""
        if self.name.startswith(PACK):
            return "pack"
        data_file = self.name.lower().endswith(SUFFIXES) or Path(self.name).expanduser().exists()
        return "hub" if not data_file and _HUB.fullmatch(self.name) else "file"


def settle(source: Source) -> Source:
    """Return the source at the commit that its revision stands for now; what is no hub dataset, as it is.

    What is recorded of a run, and read twice, is settled first. Raises UserError and MachineError, as `scan` does.
    """
    if source.kind != "hub":
        return source
    from tanren.common.data._hub import resolve_commit

    return replace(source, revision=resolve_commit(source.name, source.revision))


def scan(source: Source) -> Iterator[Row | Fault]:
    """Yield every row of a source in order, or what is wrong with it; memory is flat in the number of rows.

    A source without any row yields a fault that says so. Raises UserError at once for a name that means nothing, a split or
    layout that is not there, and a setting without effect.
    """
    return (row for _, row in scan_records(source))


def scan_records(source: Source) -> Iterator[tuple[Record | None, Row | Fault]]:
    """Do as `scan`, with the record that each row was read from; a task pack has none."""
    _check_settings(source)
    if source.kind == "pack":
        return ((None, row) for row in _pack_rows(source))
    if source.kind == "hub":
        from tanren.common.data._hub import read_hub

        return _rows(read_hub(source.name, source.split, source.revision), source, source.name)
    path = _existing_file(source.name)
    return _rows(_file_records(path), source, path.name)


def read_rows(source: Source) -> Iterator[Row]:
    """Yield every row of a source in order.

    Raises UserError as `scan` does, and at the end where a row could not be read: it counts them all and lists the first
    MOST_FAULTS. What was yielded before must not be used then.
    """
    faults: list[Fault] = []
    count = faulty = 0
    for row in scan(source):
        if isinstance(row, Row):
            count += 1
            yield row
            continue
        faulty += row.rows
        faults.append(row)
    if not faults:
        return
    if faulty == 0:
        raise UserError(f"{source.name} cannot be used:\n" + "\n".join(str(fault) for fault in faults))
    more = f"\n... and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
    listed = "\n".join(str(fault) for fault in faults[:MOST_FAULTS])
    raise UserError(f"{faulty} of {count + faulty} rows cannot be used; correct or remove them:\n{listed}{more}")


def _rows(records: Iterator[Record | Fault], source: Source, name: str) -> Iterator[tuple[Record | None, Row | Fault]]:
    found = False
    for record in records:
        found = True
        if isinstance(record, Fault):
            yield None, record
            continue
        try:
            row_id = f"{name}:{record.number}"
            yield (
                record,
                prompt_row_of(record, row_id) if source.layout == PROMPT else row_of(record, row_id, source.layout),
            )
        except FaultyRowError as error:
            yield record, Fault(record.place, str(error))
    if not found:
        yield None, Fault(source.name, "holds no row", rows=0)


def _file_records(path: Path) -> Iterator[Record | Fault]:
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            head = file.read(len(PARQUET_MAGIC))
            file.seek(0)
            wrong = _other_content(name, head)
            if wrong:
                yield Fault(str(path), wrong, rows=0)
            elif name.endswith(".parquet"):
                yield from read_parquet(path)
            elif name.endswith(GZIP):
                with gzip.open(file) as text:
                    yield from _text_records(cast(IO[bytes], text), str(path), name.removesuffix(GZIP))
            else:
                yield from _text_records(file, str(path), name)
    except (OSError, EOFError, zlib.error) as error:
        yield Fault(str(path), f"cannot be read to its end: {error}", rows=0)


def _text_records(stream: IO[bytes], path: str, name: str) -> Iterator[Record | Fault]:
    if name.endswith(".csv"):
        return read_csv(stream, path)
    return read_json(stream, path, line_is_row=name.endswith(JSON_LINES))


def _other_content(name: str, head: bytes) -> str:
    """Say what a file is by its first bytes where its name says otherwise."""
    for magic, suffix, kind in ((PARQUET_MAGIC, ".parquet", "parquet"), (GZIP_MAGIC, GZIP, "compressed (gzip)")):
        if head.startswith(magic) and not name.endswith(suffix):
            return f"its first bytes say that it is {kind}: rename it, so that its name ends with {suffix}"
        if name.endswith(suffix) and head and not head.startswith(magic):
            return f"not {kind}: its first bytes are {head!r}; give it the ending of what it is"
    return ""


def _check_settings(source: Source) -> None:
    if source.layout not in (AUTO, PROMPT) and source.layout not in LAYOUTS:
        raise UserError(
            f"{source.name}: unknown layout {source.layout!r}; expected one of {', '.join((AUTO, *LAYOUTS))}"
        )
    if source.kind != "hub" and source.revision is not None:
        raise UserError(f"{source.name}: the revision {source.revision!r} has no effect: it is no hub dataset")
    if source.kind == "file" and source.split != "train":
        raise UserError(f"{source.name}: the split {source.split!r} has no effect: a file has no splits")
    if source.kind == "pack" and source.layout != AUTO:
        raise UserError(f"{source.name}: the layout {source.layout!r} has no effect: a task pack makes its rows itself")


def _existing_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        inside = (*path.glob("*"), *path.glob("*/*"))
        files = sorted(str(file) for file in inside if file.name.lower().endswith(SUFFIXES))
        found = (
            f"name the files in it: {_listed(files)}"
            if files
            else f"there is no data file in it ({', '.join(SUFFIXES)})"
        )
        raise UserError(f"{path} is a folder, expected a file; {found}")
    if not path.exists():
        raise UserError(f"no file {path}{_beside(path)}; a source is a file, a hub dataset (owner/name) or pack:NAME")
    if not path.is_file():
        raise UserError(f"{path} is no ordinary file; save what it gives to a file, so that it can be read twice")
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(
            f"{path}: nothing is known of how to read it; expected a name that ends with {', '.join(SUFFIXES)}"
        )
    return path


def _beside(path: Path) -> str:
    """Say what is there in place of a file."""
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent})"
    files = sorted(file.name for file in path.parent.iterdir() if file.name.lower().endswith(SUFFIXES))
    near = difflib.get_close_matches(path.name, files, n=1)
    if near:
        return f" (did you mean {path.with_name(near[0])}?)"
    return f" (data files in {path.parent}: {_listed(files) or 'none'})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_FAULTS} more" if len(names) > MOST_FAULTS else ""
    return ", ".join(names[:MOST_FAULTS]) + more


def _pack_rows(source: Source) -> Iterator[Row | Fault]:
    from tanren.common.task_packs import load_pack

    if source.split not in ("train", "heldout"):
        raise UserError(f"{source.name}: unknown split {source.split!r}; a task pack has train and heldout")
    pack = load_pack(source.name.removeprefix(PACK))
    rows = pack.rows("train" if source.split == "train" else "heldout")
    if pack.description.group == "format":  # such a pack says the format of an answer there
        rows = [replace(row, metadata={"format": row.group, **row.metadata}) for row in rows]
    return _checked(rows, source)


def _checked(rows: list[Row], source: Source) -> Iterator[Row | Fault]:
    for number, row in enumerate(rows, start=1):
        try:
            if not row.segments:
                check_turns(row.messages)
        except FaultyRowError as error:
            yield Fault(f"{source.name}: row {number} ({row.id})", str(error))
        else:
            yield row
    if not rows:
        yield Fault(source.name, f"the split {source.split} holds no row", rows=0)
