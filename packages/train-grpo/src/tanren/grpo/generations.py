"""`generations.jsonl`: every completion of a run, with what was found of it. Only appended to; the CSV is a view of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.run import append_line, mend_last_line, read_events, write_atomically
from tanren.grpo.rollout import Rated, Rollout

if TYPE_CHECKING:
    from tanren.grpo.trainer import Update

JSONL, CSV = "generations.jsonl", "generations.csv"


class GenerationsWriter:
    """Appends the completions of each step; a last line torn by a kill is cut off first."""

    def __init__(self, folder: Path) -> None:
        """Open the file of a run's folder for appending."""
        path = folder / JSONL
        mend_last_line(path)
        self._file = path.open("ab")

    def resume(self, step: int) -> None:
        """Note that the run goes on after a step: what stands above of later ones is done again."""
        append_line(self._file, {"kind": "resume", "step": step})

    def write(self, step: int, rollout: Rollout, updates: Sequence[Update]) -> None:
        """Append the completions of a step, in their order, before anything is learned from them."""
        batches = [batch for update in updates for batch in update.batches]
        places = {id(one): number for number, batch in enumerate(batches, start=1) for one in batch}
        for one in rollout.completions:
            append_line(self._file, _line(one, step, places.get(id(one))))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_generations(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the completions of a run in order; of steps that were done twice, those of the last time."""
    path = folder / JSONL
    marks = [(number, event) for number, event in enumerate(read_events(path)) if event["kind"] == "resume"]
    for number, event in enumerate(read_events(path)):
        if event["kind"] == "completion" and not any(
            later > number and event["step"] > mark["step"] for later, mark in marks
        ):
            yield event


def write_generations_csv(folder: Path) -> None:
    """Write `generations.csv` anew: the same lines, each reward in a column of its own."""
    lines = [_flat(event) for event in read_generations(folder)]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(folder / CSV, text.getvalue())


def _line(one: Rated, step: int, micro_step: int | None) -> dict[str, Any]:
    return {
        "kind": "completion",
        "step": step,
        "micro_step": micro_step,
        "prompt_id": one.prompt.row.id,
        "prompt_hash": one.prompt.hash,
        "completion": one.text,
        "tokens": len(one.completion.token_ids),
        "finish_reason": one.completion.finish_reason,
        "verdict": None if one.judged is None else one.judged.verdict.value,
        "why_invalid": None if one.judged is None else one.judged.error,
        "parsed_action": None if one.judged is None else one.judged.action,
        "target_action": _plain(one.prompt.row.expected),
        "rewards": dict(one.columns),
        "reward": one.reward,
        "regret": one.regret,
        "advantage": one.advantage,
        "excluded_why": one.excluded_why,
    }


def _plain(value: Any) -> Any:
    """Return a parsed value as JSON has it; dates and what else JSON does not know, as text."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError):  # a key that is no text
        return str(value)


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in event.items():
        if name == "rewards":
            found |= {f"reward/{reward}": given for reward, given in value.items()}
        elif name != "kind":
            found[name] = (
                value if isinstance(value, str | int | float | None) else json.dumps(value, ensure_ascii=False)
            )
    return found
