"""The evaluator that trainers find by its entry point: candidates in, scores, a table and files out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.completions import Answers
from tanren.common.config import GenerationConfig
from tanren.common.console import Bar, Console
from tanren.common.run import write_atomically
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.engine import CompletionText, Draws, Engine, Prompt, Slot, prompts_of
from tanren.evaluate.journal import Journal
from tanren.evaluate.measures import answers_of, pack_differences, pack_scores, pack_tables
from tanren.evaluate.predictions import Prediction, write_tasks
from tanren.evaluate.samples import VoteKey, by_value
from tanren.evaluate.scoring import Judged, compare, judge, score
from tanren.evaluate.table import HELDOUT, comparison_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = "tasks.jsonl"
PREDICTIONS = "predictions.jsonl"
SCORES = "scores.json"
# Lines of progress for each candidate, where no bar is drawn.
_REPORTS = 20


class GenerationEvaluator:
    """Evaluates candidates on the same rows, so that they can be compared item by item."""

    def __init__(
        self,
        pack: TaskPack,
        rows: Sequence[Row],
        settings: GenerationConfig,
        console: Console,
        draws: Draws | None = None,
        items: str = HELDOUT,
    ) -> None:
        """Prepare to evaluate candidates on `rows`, which are called `items`, greedily unless `draws` says otherwise."""
        self._items = items
        self._pack, self._rows, self._settings, self._console = pack, rows, settings, console
        self._draws = draws or Draws.greedy(settings.max_new_tokens)
        self.judged: dict[str, list[Judged]] = {}
        """Of every candidate that was evaluated, in the order of that."""
        self._scores: dict[str, Mapping[str, Any]] = {}

    def evaluate(
        self,
        candidate: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        answers: Answers | None = None,
    ) -> None:
        """Generate with one candidate, judge, and write `<folder>/<candidate>/predictions.jsonl` and its scores.

        `answers`: what generates by the weights of `model` in its place. Predictions that a resumed run made before are used
        again if they answer the very same prompts.
        """
        from tanren.evaluate.asked_engine import AskedEngine
        from tanren.evaluate.generation import TransformersEngine

        engine: Engine = TransformersEngine(model, tokenizer, self._settings)
        if answers is not None:
            engine = AskedEngine(answers, model, tokenizer)
        self.evaluate_with(candidate, prompts_of(tokenizer, self._rows), lambda: nullcontext(engine), folder)

    def evaluate_with(
        self,
        candidate: str,
        prompts: Sequence[Prompt],
        serving: Callable[[], AbstractContextManager[Engine]],
        folder: Path,
    ) -> None:
        """Do the same with any engine; `serving` is called only where something is left to generate."""
        write_tasks(folder / TASKS, self._rows)
        path = folder / candidate / PREDICTIONS
        journal = Journal(path, prompts, self._draws.samples, self._console)
        count, wanted = len(prompts) * self._draws.samples, journal.wanted
        if len(wanted) < count:
            there = count - len(wanted)
            self._console.line(
                f"evaluate {candidate}: {there} predictions of this run are there already"
                + (f", {len(wanted)} are missing" if wanted else "")
            )
        if wanted:
            with (
                serving() as engine,
                self._console.phase(f"evaluate {candidate}", f"{len(self._rows)} {self._items}, {self.how}"),
            ):
                self._generate(candidate, engine, prompts, journal)
        self._judge(candidate, journal.finish(), folder)

    def scores(self, candidate: str) -> Mapping[str, Any]:
        """Return the scores of a candidate that was evaluated."""
        if candidate not in self._scores:
            judged = self.judged[candidate]
            own = pack_scores(self._pack, answers_of(judged))
            self._scores[candidate] = score(judged, vote_key_of(self._pack)) | own
        return self._scores[candidate]

    def compare(self, first: str, second: str) -> Mapping[str, Any]:
        """Return the scores of two candidates and their paired difference."""
        return {
            **self.subject(),
            "candidates": {first: self.scores(first), second: self.scores(second)},
            "first": first,
            "second": second,
            "difference": compare(self.judged[first], self.judged[second]),
            "measures_difference": self.measures_difference(first, second),
        }

    def measures_difference(self, first: str, second: str) -> Mapping[str, Any]:
        """Return the differences of the pack's own metrics, second minus first; {} for a pack without."""
        return pack_differences(self._pack, answers_of(self.judged[first]), answers_of(self.judged[second]))

    def subject(self) -> dict[str, Any]:
        """Return what is evaluated: the task, what its groups are, and what is held out."""
        description = self._pack.description
        return {"task": description.name, "group": description.group, "heldout": description.heldout}

    def table(self, first: str, second: str) -> str:
        """Return the comparison as a table to print."""
        values = self.compare(first, second)
        table = comparison_table(values["group"], values["candidates"], values["difference"], first, second)
        return "\n".join([table, *pack_tables(values["task"], values["candidates"], values["measures_difference"])])

    @property
    def how(self) -> str:
        """Say in a few words how completions are generated."""
        sampling, count = self._draws.sampling, self._draws.samples
        if sampling.greedy:
            return "greedy"
        samples = f"{count} samples each, " if count > 1 else ""
        return f"{samples}temperature {sampling.temperature:g}, top_p {sampling.top_p:g}"

    def _generate(self, candidate: str, engine: Engine, prompts: Sequence[Prompt], journal: Journal) -> None:
        begun = time.perf_counter()
        wanted = journal.wanted
        items = tokens = told = 0
        with self._console.bar(f"evaluate {candidate}", len(wanted), "items") as bar:

            def done(completions: Sequence[tuple[Slot, CompletionText]]) -> None:
                nonlocal items, tokens, told
                items += journal.append(completions)
                tokens += sum(completion.completion_tokens for _, completion in completions)
                told = _tell(bar, items, told, tokens, time.perf_counter() - begun)

            engine.generate(prompts, wanted, self._draws, done, lambda facts: bar.advance(items, facts))

    def _judge(self, candidate: str, predictions: Sequence[Prediction], folder: Path) -> None:
        where = str(folder / candidate / PREDICTIONS)
        self._scores.pop(candidate, None)
        self.judged[candidate] = judge(self._rows, predictions, self._pack.parse, where)
        write_atomically(folder / candidate / SCORES, json.dumps(self.scores(candidate), indent=2) + "\n")


def vote_key_of(pack: TaskPack) -> VoteKey:
    """Return how a pack compares answers for the majority vote: its own `vote_key`, else by their parsed value."""
    key: VoteKey = getattr(pack.module, "vote_key", by_value)
    return key


def _tell(bar: Bar, items: int, told: int, tokens: int, seconds: float) -> int:
    """Report progress, but not after every single completion of a server; return how many items were reported last."""
    if items - told < bar.total / _REPORTS and items < bar.total:
        return told
    left = seconds / max(items, 1) * (bar.total - items)
    bar.report(items, f"{tokens / max(seconds, 1e-9):.0f} tokens/s  {left:.0f} s left")
    return items
