"""Which candidates an evaluation's folder holds, in their order: its `candidates.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tanren.common.run import write_atomically

CANDIDATES = "candidates.json"


def write_candidates(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write what is known of each candidate, in the order of tables; each has at least a `name`, that of its folder."""
    write_atomically(
        folder / CANDIDATES, json.dumps({"candidates": list(records)}, indent=2, ensure_ascii=False) + "\n"
    )


def candidate_names(folder: Path) -> list[str]:
    """Return the candidates' names in order; of a training run, which lists none, `base` and then the others."""
    path = folder / CANDIDATES
    if path.is_file():
        return [one["name"] for one in json.loads(path.read_text(encoding="utf-8"))["candidates"]]
    found = [one.parent for one in folder.glob("*/predictions.jsonl")]
    return [one.name for one in sorted(found, key=lambda one: (one.name != "base", one.name))]
