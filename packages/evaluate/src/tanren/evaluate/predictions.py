"""Predictions and tasks as JSONL, joined by id. Scoring reads these files, so it can be repeated without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tanren.common.errors import UserError
from tanren.common.jsonl import numbered_lines
from tanren.common.run import write_atomically
from tanren.common.task_contract import Message, Row, Segment

if TYPE_CHECKING:
    from tanren.evaluate.engine import CompletionText


class Answer(Protocol):
    """What can be joined to tasks and judged: a prediction, or an entry of a submission."""

    @property
    def id(self) -> str:
        """The id of the task that it answers."""

    @property
    def completion(self) -> str:
        """What was written."""


AnyAnswer = TypeVar("AnyAnswer", bound=Answer)
_LISTED = 10
"""Ids that a message lists of each kind of fault."""


@dataclass(frozen=True)
class Prediction:
    """What a candidate wrote for one task."""

    id: str
    completion: str
    prompt_hash: str
    finish_reason: str
    """stop, length (cut at max_new_tokens), or what a server said."""
    prompt_tokens: int
    completion_tokens: int
    sample: int = 0
    """Which one of the task's samples it is."""

    @classmethod
    def of(cls, identity: str, prompt_hash: str, made: CompletionText, sample: int = 0) -> Prediction:
        """Return a completion as the prediction of a task."""
        return cls(
            identity, made.text, prompt_hash, made.finish_reason, made.prompt_tokens, made.completion_tokens, sample
        )


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions, whole or not at all."""
    _write(path, (asdict(prediction) for prediction in predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions. Raises UserError with file and line for what is not a prediction."""
    predictions = []
    for number, record in _read(path):
        try:
            prediction = Prediction(**record)
        except TypeError:
            expected = ", ".join(Prediction.__dataclass_fields__)
            found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise UserError(f"{path}:{number}: not a prediction: found {found}; expected {expected}") from None
        for name in ("id", "completion", "prompt_hash", "finish_reason"):
            if not isinstance(getattr(prediction, name), str):
                raise UserError(f"{path}:{number}: {name}: found {getattr(prediction, name)!r}, expected text")
        if not isinstance(prediction.sample, int):
            raise UserError(f"{path}:{number}: sample: found {prediction.sample!r}, expected a whole number")
        predictions.append(prediction)
    return predictions


def write_tasks(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as tasks, with all that judging needs."""
    _write(path, (asdict(row) for row in rows))


def read_tasks(path: Path) -> list[Row]:
    """Read tasks. Raises UserError with file and line for what is not a task."""
    rows = []
    for number, record in _read(path):
        try:
            prompt = tuple(Message(**message) for message in record.pop("prompt"))
            segments = tuple(Segment(**segment) for segment in record.pop("segments", ()))
            rows.append(Row(prompt=prompt, segments=segments, **record))
        except (TypeError, KeyError, AttributeError):
            expected = ", ".join(Row.__dataclass_fields__)
            raise UserError(f"{path}:{number}: not a task; expected an object with {expected}") from None
    return rows


def join(rows: Sequence[Row], predictions: Sequence[AnyAnswer], where: str) -> list[tuple[Row, AnyAnswer]]:
    """Pair tasks with predictions by id, in the order of the tasks; of several samples each, also in that of the samples.

    Raises UserError if an id is missing, doubled or unknown: a score over other items than the user thinks is worse than none.
    """
    by_key: dict[tuple[str, int], AnyAnswer] = {}
    doubled = []
    for prediction in predictions:
        key = (prediction.id, getattr(prediction, "sample", 0))
        if key in by_key:
            doubled.append(_named(key))
        by_key[key] = prediction
    known = {row.id for row in rows}
    samples = range(max((sample for _, sample in by_key), default=0) + 1)
    wanted = [(row.id, sample) for row in rows for sample in samples]
    faults = {
        "missing": [_named(key) for key in wanted if key not in by_key],
        "doubled": doubled,
        "unknown": list(dict.fromkeys(identity for identity, _ in by_key if identity not in known)),
    }
    told = [
        f"{len(ids)} {kind} ids ({', '.join(ids[:_LISTED])}{', ...' if len(ids) > _LISTED else ''})"
        for kind, ids in faults.items()
        if ids
    ]
    if told:
        raise UserError(
            f"{where}: predictions do not fit the {len(rows)} tasks: {'; '.join(told)}; score them with the tasks they were made for"
        )
    return [(row, by_key[row.id, sample]) for row in rows for sample in samples]


def _named(key: tuple[str, int]) -> str:
    identity, sample = key
    return f"{identity} sample {sample}" if sample else identity


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _read(path: Path) -> Iterable[tuple[int, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no file {path}; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a JSONL file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    for number, line in numbered_lines(text):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from None
