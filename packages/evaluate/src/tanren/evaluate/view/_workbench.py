"""What the viewer shows and changes: a run's items with answers as they were made, and as they were edited."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tanren.common.run import RunDirectory
from tanren.evaluate.evaluated import Evaluated, predictions_of, read_evaluated
from tanren.evaluate.items import answer_record, page_data
from tanren.evaluate.scoring import POOLED, Judged, score
from tanren.evaluate.table import percent

from ._edits import read_edited, save_answer
from ._shown import shown

SUFFIX = ", edited"
"""Behind a candidate's name: its answers with the edited ones in place of those that were made."""


class Workbench:
    """One run. Safe to use from several threads; edits are read from disk each time, as another process may save some."""

    def __init__(self, run: RunDirectory) -> None:
        """Read and judge what the run's candidates wrote. Raises UserError for a run without answers."""
        self._run = run
        self._made = read_evaluated(run)
        self._lock = threading.Lock()
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
        pair = {"pair": list(self._made.pair)} if self._made.pair else {}
        return page_data(self._run.label, everything) | pair | self._candidates(everything)

    def save(self, candidate: str, identity: str, text: str, seen: str) -> dict[str, Any]:
        """Store an edited answer and return it judged, with the scores that follow.

        Raises KeyError for an unknown candidate or item, ConflictError where another text than `seen` is there by now.
        """
        made = self._made.candidates[candidate]
        index = self._index[identity]
        with self._lock:
            save_answer(predictions_of(self._run, candidate), [one.prediction for one in made], identity, text, seen)
            everything = self._everything()
        answers = {name: [answer_record(judged[index])] for name, judged in everything.candidates.items()}
        return {"answers": answers} | self._candidates(everything)

    def shown(self, candidate: str, identity: str) -> Any:
        """Return an answer as a table or tree; of the candidate "" the expected one. None where it has no such form.

        Raises KeyError for an unknown candidate or item.
        """
        row = self._made.rows[self._index[identity]]
        if not candidate:
            return shown(row.reference, row.expected, row.group)
        with self._lock:
            judged = self._everything().candidates[candidate][self._index[identity]]
        return shown(judged.prediction.completion, judged.parsed.value, row.group)

    def _everything(self) -> Evaluated:
        """Return the run's candidates, each with edits followed by itself with them."""
        candidates: dict[str, Sequence[Judged]] = {}
        for name, made in self._made.candidates.items():
            candidates[name] = made
            edited = read_edited(predictions_of(self._run, name), [one.prediction for one in made])
            if edited is not None:
                candidates[f"{name}{SUFFIX}"] = [
                    one
                    if prediction == one.prediction
                    else Judged(one.row, prediction, self._made.pack.parse(prediction.completion, one.row))
                    for one, prediction in zip(made, edited, strict=True)
                ]
        return replace(self._made, candidates=candidates)

    def _candidates(self, everything: Evaluated) -> Mapping[str, Any]:
        scores = []
        for name, judged in everything.candidates.items():
            pooled = score(judged)["by_group"][POOLED]
            scores.append(
                {"name": name, "n": len(judged)} | {key: percent(pooled[key]) for key in ("valid", "correct")}
            )
        made = {f"{name}{SUFFIX}": name for name in self._made.candidates}
        names = list(everything.candidates)
        return {"candidates": names, "edited": {name: made[name] for name in names if name in made}, "scores": scores}
