"""Evaluation by generation while it trains: a few held-out rows, always the same ones, so that a curve can be seen."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tanren.common.console import Console
from tanren.common.evaluators import Evaluator, find_evaluator
from tanren.common.run import RunDirectory
from tanren.common.task_contract import Row
from tanren.common.untouched import untouched
from tanren.sft.config import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.sft.plan import Plan


def rows_of_steps(rows: Sequence[Row], config: EvaluationConfig, seed: int) -> list[Row]:
    """Return the rows that every evaluation between steps takes, in their own order; the seed alone draws them."""
    chosen = random.Random(f"{seed}-step-rows").sample(range(len(rows)), min(config.step_rows, len(rows)))  # noqa: S311 (a choice, not a secret)
    return [rows[index] for index in sorted(chosen)]


class StepEvaluation:
    """Generates with the model as it is after a step, and judges; its cost is bounded by rows times max_new_tokens."""

    def __init__(
        self, evaluator: Evaluator, tokenizer: PreTrainedTokenizerBase, folder: Path, *, every: int, steps: int
    ) -> None:
        """Evaluate after every `every` steps, but not after the last of `steps`: the whole evaluation follows there."""
        self._evaluator, self._tokenizer, self._folder = evaluator, tokenizer, folder
        self._every, self._steps = every, steps
        self.last_step = 0

    def due(self, step: int) -> bool:
        """Whether an evaluation after `step` is wanted and not done yet."""
        return self.last_step < step < self._steps and step % self._every == 0

    def run(self, model: Any, step: int) -> dict[str, Any]:
        """Return the event to record: shares (0 to 1) of valid and correct answers, with their counts and n; the pack's own metrics."""
        begun = time.perf_counter()
        name = f"step-{step}"
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)  # generation has operations that know none, and trains nothing
        try:
            with untouched(model):
                self._evaluator.evaluate(name, model, self._tokenizer, self._folder)
        finally:
            torch.use_deterministic_algorithms(deterministic)
        self.last_step = step
        scores = self._evaluator.scores(name)
        pooled = scores["by_group"]["all"]
        found: dict[str, Any] = {
            "step": step,
            "n": scores["n"],
            "cut_at_max_new_tokens": scores["cut_at_max_new_tokens"],
        }
        for metric in ("valid", "correct"):
            found |= {metric: pooled[metric]["value"], f"{metric}_count": pooled[metric]["count"]}
        if "measures" in scores:
            found["measures"] = {name: one["value"] for name, one in scores["measures"].items()}
        return found | {"seconds": time.perf_counter() - begun}


def step_evaluation_of(
    plan: Plan, tokenizer: PreTrainedTokenizerBase, steps: int, run: RunDirectory, console: Console
) -> StepEvaluation | None:
    """Return what evaluates between the `steps` of a run, if it is asked for."""
    evaluation = plan.config.evaluation
    if not evaluation.every_steps or plan.pack is None:
        return None
    rows = rows_of_steps(plan.heldout_rows, evaluation, plan.config.seed)
    return StepEvaluation(
        find_evaluator()(plan.pack, rows, evaluation, console),
        tokenizer,
        run.evaluation / "steps",
        every=evaluation.every_steps,
        steps=steps,
    )
