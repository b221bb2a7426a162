"""What the viewer shows and changes: a run's items with answers as they were made, and as they were edited."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tanren.common.run import RunDirectory
from tanren.evaluate.evaluated import Evaluated, predictions_of, read_evaluated
from tanren.evaluate.items import answer_records, page_data
from tanren.evaluate.predictions import Prediction
from tanren.evaluate.scoring import POOLED, Judged, score
from tanren.evaluate.table import percent

from ._edits import EDITED, read_edited, save_answer
from ._shown import shown

SUFFIX = ", edited"
"""Behind a candidate's name: its answers with the edited ones in place of those that were made."""


class Workbench:
    """One run. Safe to use from several threads, and beside other processes that save edits of it."""

    def __init__(self, run: RunDirectory) -> None:
        """Read and judge what the run's candidates wrote. Raises UserError for a run without answers."""
        self._run = run
        self._made = read_evaluated(run)
        self._lock = threading.Lock()
        self._edited: dict[str, tuple[Any, list[Judged] | None]] = {}
        self._index = {row.id: number for number, row in enumerate(self._made.rows)}
        with self._lock:
            self._everything()  # broken edits are told at the start

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.label

    @property
    def group(self) -> str:
        """What items are grouped by, as a heading."""
        return self._made.pack.description.group

    def told(self) -> str:
        """Return what there is to see, in one line."""
        return f"{len(self._made.rows)} items, candidates: {', '.join(self._made.candidates)}"

    def data(self) -> dict[str, Any]:
        """Return everything the page shows of the items."""
        with self._lock:
            everything = self._everything()
        return page_data(self._run.label, everything) | self._candidates(everything)

    def save(self, candidate: str, identity: str, sample: int, text: str, seen: str) -> dict[str, Any]:
        """Store an edited answer and return it judged, with the scores that follow.

        Raises LookupError for an unknown candidate, item or sample, ConflictError where another text than `seen` is there by now.
        """
        index, made = self._index[identity], self._predictions(candidate)
        _ = self._made.candidates[candidate][index].samples[sample]
        with self._lock:
            save_answer(predictions_of(self._run, candidate), made, identity, sample, text, seen)
            everything = self._everything()
        answers = {name: answer_records(judged[index]) for name, judged in everything.candidates.items()}
        return {"answers": answers} | self._candidates(everything)

    def shown(self, candidate: str, identity: str, sample: int) -> Any:
        """Return an answer as a table or tree; of the candidate "" the expected one. None where it has no such form.

        Raises LookupError for an unknown candidate, item or sample.
        """
        index = self._index[identity]
        row = self._made.rows[index]
        if not candidate:
            return shown(row.reference, row.expected, row.group)
        with self._lock:
            prediction, parsed = self._everything().candidates[candidate][index].samples[sample]
        return shown(prediction.completion, parsed.value, row.group)

    def _predictions(self, candidate: str) -> list[Prediction]:
        return [prediction for one in self._made.candidates[candidate] for prediction, _ in one.samples]

    def _everything(self) -> Evaluated:
        """Return the run's candidates, each with edits followed by itself with them."""
        candidates: dict[str, Sequence[Judged]] = {}
        for name, made in self._made.candidates.items():
            candidates[name] = made
            edited = self._edited_of(name, made)
            if edited is not None:
                candidates[f"{name}{SUFFIX}"] = edited
        return replace(self._made, candidates=candidates)

    def _edited_of(self, name: str, made: Sequence[Judged]) -> list[Judged] | None:
        """Return a candidate with its edits, None without any; read anew only where the file is another."""
        path = predictions_of(self._run, name)
        try:
            found = path.with_name(EDITED).stat()
            version: Any = (found.st_ino, found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            version = None
        known = self._edited.get(name)
        if known is None or known[0] != version:
            edited = read_edited(path, self._predictions(name))
            known = self._edited[name] = (version, None if edited is None else self._judged(made, edited))
        return known[1]

    def _judged(self, made: Sequence[Judged], edited: Sequence[Prediction]) -> list[Judged]:
        """Return the items with their edited answers; those that are as they were made need no judging."""
        found, left = [], iter(edited)
        for item in made:
            (first, parsed), *others = [
                before if one == before[0] else (one, self._made.pack.parse(one.completion, item.row))
                for before, one in zip(item.samples, left, strict=False)
            ]
            found.append(Judged(item.row, first, parsed, tuple(others)))
        return found

    def _candidates(self, everything: Evaluated) -> dict[str, Any]:
        scores = []
        for name, judged in everything.candidates.items():
            pooled = score(judged)["by_group"][POOLED]
            shares = {key: _share(pooled[key], len(judged)) for key in ("valid", "correct")}
            scores.append({"name": name, "n": len(judged)} | shares)
        made = {f"{name}{SUFFIX}": name for name in self._made.candidates}
        names = list(everything.candidates)
        return {"candidates": names, "edited": {name: made[name] for name in names if name in made}, "scores": scores}


def _share(share: Mapping[str, Any], n: int) -> str:
    """Return a share in percent, with its number of items where it is over others than all."""
    return percent(share) if share["n"] == n else f"{percent(share)} of {share['n']}"
