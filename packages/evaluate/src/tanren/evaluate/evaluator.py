"""The evaluator that trainers find by its entry point: candidates in, scores, a table and files out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.chat import prompt_hash, render_prompt
from tanren.common.config import GenerationConfig
from tanren.common.console import Console
from tanren.common.run import write_atomically
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.measures import pack_differences, pack_scores, pack_tables
from tanren.evaluate.predictions import Prediction, read_predictions, write_predictions, write_tasks
from tanren.evaluate.scoring import Judged, answers_of, compare, judge, score
from tanren.evaluate.table import comparison_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = "tasks.jsonl"
PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"


class GenerationEvaluator:
    """Evaluates candidates on the same rows, so that they can be compared item by item."""

    def __init__(self, pack: TaskPack, rows: Sequence[Row], settings: GenerationConfig, console: Console) -> None:
        """Prepare to evaluate candidates on `rows`."""
        self._pack, self._rows, self._settings, self._console = pack, rows, settings, console
        self._judged: dict[str, list[Judged]] = {}

    def evaluate(
        self, candidate: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> None:
        """Generate with one candidate, judge, and write `<folder>/<candidate>/predictions.jsonl` and its scores.

        Predictions that a resumed run made before are used again if they answer the very same prompts.
        """
        write_tasks(folder / TASKS, self._rows)
        path = folder / candidate / PREDICTIONS
        predictions = self._earlier(path, tokenizer)
        if predictions is None:
            with self._console.phase(f"evaluate {candidate}", f"{len(self._rows)} held-out items, greedy"):
                predictions = self._generate(candidate, model, tokenizer)
            write_predictions(path, predictions)
        else:
            self._console.line(f"evaluate {candidate}: {len(predictions)} predictions of this run are there already")
        self._judged[candidate] = judge(self._rows, predictions, self._pack.parse, str(path))
        scores = self.scores(candidate)
        write_atomically(folder / candidate / SCORES, json.dumps(scores, indent=2) + "\n")

    def scores(self, candidate: str) -> Mapping[str, Any]:
        """Return the scores of a candidate that was evaluated."""
        judged = self._judged[candidate]
        return score(judged) | pack_scores(self._pack, answers_of(judged))

    def compare(self, first: str, second: str) -> Mapping[str, Any]:
        """Return the scores of two candidates and their paired difference."""
        one, two = self._judged[first], self._judged[second]
        return {
            "task": self._pack.description.name,
            "group": self._pack.description.group,
            "heldout": self._pack.description.heldout,
            "candidates": {first: self.scores(first), second: self.scores(second)},
            "first": first,
            "second": second,
            "difference": compare(one, two),
            "measures_difference": pack_differences(self._pack, answers_of(one), answers_of(two)),
        }

    def table(self, first: str, second: str) -> str:
        """Return the comparison as a table to print."""
        values = self.compare(first, second)
        table = comparison_table(values["group"], values["candidates"], values["difference"], first, second)
        return "\n".join([table, *pack_tables(self._pack, values["candidates"], values["measures_difference"])])

    def _generate(self, candidate: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Prediction]:
        from tanren.evaluate.generation import generate

        begun = time.perf_counter()
        items = tokens = 0
        steps = 0
        with self._console.bar(f"evaluate {candidate}", len(self._rows), "items") as bar:

            def on_token() -> None:
                nonlocal steps
                steps += 1
                bar.advance(items, f"token {steps} of at most {self._settings.max_new_tokens}")

            def on_batch(batch_items: int, batch_tokens: int) -> None:
                nonlocal items, tokens, steps
                items, tokens, steps = items + batch_items, tokens + batch_tokens, 0
                seconds = time.perf_counter() - begun
                left = seconds / items * (len(self._rows) - items)
                bar.report(items, f"{tokens / seconds:.0f} tokens/s  {left:.0f} s left")

            return generate(model, tokenizer, self._rows, self._settings, on_token=on_token, on_batch=on_batch)

    def _earlier(self, path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Prediction] | None:
        if not path.is_file():
            return None
        predictions = read_predictions(path)
        wanted = {row.id: prompt_hash(render_prompt(tokenizer, row.prompt)) for row in self._rows}
        return predictions if {item.id: item.prompt_hash for item in predictions} == wanted else None
