"""Edited answers: `edited.jsonl` beside a candidate's `predictions.jsonl`, in the same form, with every item in it.

So it is a candidate of its own: `evaluate score` and `evaluate submit` take it as they take predictions.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tanren.common.errors import UserError
from tanren.evaluate.predictions import Prediction, read_predictions, write_predictions

EDITED = "edited.jsonl"
_LOCK = ".edited.lock"


class ConflictError(Exception):
    """The answer is no longer what the editor showed; `text` is what it is now."""

    def __init__(self, text: str) -> None:
        """Take the text that is there now."""
        super().__init__("edited meanwhile")
        self.text = text


def read_edited(predictions: Path, made: Sequence[Prediction]) -> list[Prediction] | None:
    """Return the edited answers beside a candidate's predictions, in the order of `made`; None where nothing was edited.

    Raises UserError for edited answers of other items or other prompts.
    """
    path = predictions.with_name(EDITED)
    if not path.is_file():
        return None
    edited = {_place(one): one for one in read_predictions(path)}
    if {_place(one): one.prompt_hash for one in edited.values()} != {_place(one): one.prompt_hash for one in made}:
        raise UserError(
            f"{path} answers other items or prompts than {predictions.name} beside it, which was made anew since; "
            f"move {path.name} away"
        )
    return [edited[_place(one)] for one in made]


def save_answer(
    predictions: Path, made: Sequence[Prediction], identity: str, sample: int, text: str, seen: str
) -> None:
    """Store `text` as the edited answer of an item (one of its samples); the answer as it was made takes the edit back.

    Whole or not at all, and one process at a time. Raises ConflictError unless the answer is still `seen`.
    """
    path = predictions.with_name(EDITED)
    with _held(path.with_name(_LOCK)):
        current = read_edited(predictions, made) or list(made)
        index = [_place(one) for one in made].index((identity, sample))
        if current[index].completion != seen:
            raise ConflictError(current[index].completion)
        # Nobody generated it: it ends where its writer ended it, and no token was spent on it.
        edited = replace(made[index], completion=text, finish_reason="stop", completion_tokens=0)
        current[index] = made[index] if text == made[index].completion else edited
        if current == list(made):
            path.unlink(missing_ok=True)
        else:
            write_predictions(path, current)


def _place(prediction: Prediction) -> tuple[str, int]:
    return prediction.id, prediction.sample


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Wait until no other process saves here, and keep others out; the system lets go however the process ends."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
