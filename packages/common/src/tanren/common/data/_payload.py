"""The payload of an answer: what stands behind its marker, and the format that the row says it has."""

from __future__ import annotations

from collections.abc import Sequence

from tanren.common.chat import Learned, learned_from
from tanren.common.task_contract import Row

FORMATS = ("json", "yaml", "toml", "xml", "csv")
_OTHER_NAMES = {"yml": "yaml"}


def payload_format(row: Row) -> str | None:
    """Return the format that a row says its payload has, one of FORMATS; None where it says none, or one that is not known.

    The first that is there decides: `metadata.format`, what stands behind `_to_` in `subcategory`, `category` (C_XML). The
    category comes last, for in known data sets C_XML also holds rows that turn XML into YAML.
    """
    subcategory = _word(row, "subcategory").rpartition("_to_")
    said = (
        _word(row, "format") or (subcategory[2] if subcategory[1] else "") or _word(row, "category").removeprefix("c_")
    )
    name = _OTHER_NAMES.get(said, said)
    return name if name in FORMATS else None


def payload_of(row: Row, markers: Sequence[str]) -> str:
    """Return what stands behind the marker of a row's answer (chosen as `Learned` does), or the whole answer without one."""
    answer = row.reference.strip()
    start, _ = learned_from(answer, Learned("last", "after_marker", tuple(markers)))
    return answer[start or 0 :]


def _word(row: Row, key: str) -> str:
    value = row.metadata.get(key)
    return value.strip().lower() if isinstance(value, str) else ""
