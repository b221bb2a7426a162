"""Predictions as they come: appended to a file of their own, from which an interrupted evaluation goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tanren.common.console import Console
from tanren.common.run import append_line, mend_last_line
from tanren.evaluate.engine import CompletionText, Prompt, Slot
from tanren.evaluate.predictions import Prediction, read_predictions, write_predictions

PARTIAL = "predictions.partial.jsonl"
"""Beside predictions.jsonl, which is whole or not there."""


class Journal:
    """The predictions of one candidate while they are made."""

    def __init__(self, path: Path, prompts: Sequence[Prompt], samples: int, console: Console) -> None:
        """Take up what an earlier start of this run has left, if it answers the very same prompts; a torn last line goes."""
        self._path, self._partial = path, path.with_name(PARTIAL)
        self._prompts, self._samples = prompts, samples
        self._index = {prompt.row.id: index for index, prompt in enumerate(prompts)}
        self._made: dict[Slot, Prediction] = {}
        for left in self._path.parent.glob(
            f".{self._path.name}.*.partial"
        ):  # of a process that was killed while it wrote
            left.unlink()
        for found in (self._path, self._partial):
            if found.is_file():
                self._take_up(found, console)

    @property
    def wanted(self) -> frozenset[Slot]:
        """What is not there yet."""
        return frozenset(self._slots()) - self._made.keys()

    def append(self, completions: Sequence[tuple[Slot, CompletionText]]) -> int:
        """Keep completions; what was there already stays. Return how many were new."""
        before = len(self._made)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("ab") as file:
            for slot, completion in completions:
                if slot in self._made:
                    continue
                prompt = self._prompts[slot.prompt]
                self._made[slot] = Prediction.of(prompt.row.id, prompt.hash, completion, slot.sample)
                append_line(file, asdict(self._made[slot]))
        return len(self._made) - before

    def finish(self) -> list[Prediction]:
        """Write all of them in the order of the rows, and return them."""
        predictions = [self._made[slot] for slot in self._slots()]
        write_predictions(self._path, predictions)
        self._partial.unlink(missing_ok=True)
        return predictions

    def _slots(self) -> list[Slot]:
        return [Slot(index, sample) for index in range(len(self._prompts)) for sample in range(self._samples)]

    def _take_up(self, path: Path, console: Console) -> None:
        mend_last_line(path)
        earlier = read_predictions(path)
        found = {Slot(self._index.get(one.id, -1), one.sample): one for one in earlier}
        slots = set(self._slots())
        if all(slot in slots and one.prompt_hash == self._prompts[slot.prompt].hash for slot, one in found.items()):
            self._made |= found
            return
        console.warn(f"{path}: {len(earlier)} predictions answer other prompts than this run asks: they are made anew")
        path.unlink()
