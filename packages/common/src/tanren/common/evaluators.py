"""How a trainer finds the evaluator without importing it: the entry point group `tanren.evaluators`.

Imports point one way (trainers and evaluator to common), so a trainer names what it needs here as a protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tanren.common.completions import Answers
from tanren.common.config import GenerationConfig
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.run import RunDirectory
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GROUP = "tanren.evaluators"


class Evaluator(Protocol):
    """What a trainer asks of the evaluator."""

    def __init__(self, pack: TaskPack, rows: Sequence[Row], settings: GenerationConfig, console: Console) -> None:
        """Prepare to evaluate candidates on `rows`."""

    def evaluate(
        self,
        candidate: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        answers: Answers | None = None,
    ) -> None:
        """Generate with one candidate ("base", "trained"), judge, and write its predictions below `folder`.

        `answers`: what generates by the weights of `model` in its place.
        """

    def scores(self, candidate: str) -> Mapping[str, Any]:
        """Return the scores of a candidate that was evaluated: n, and by group the shares of valid and correct answers."""

    def compare(self, first: str, second: str) -> Mapping[str, Any]:
        """Return the scores of two candidates and their paired difference, as `summary.json` records them."""

    def table(self, first: str, second: str) -> str:
        """Return the comparison as a table to print."""


class ReportWriter(Protocol):
    """Writes `report.html` from what a run directory holds."""

    def __call__(self, run: RunDirectory) -> Path:
        """Write the report and return its path."""


class Viewer(Protocol):
    """Shows a run's items in the browser."""

    def __call__(self, folder: Path, *, port: int, open_browser: bool) -> int:
        """Serve until Ctrl-C and return the exit code."""


def find_evaluator(name: str = "generation") -> type[Evaluator]:
    """Return the installed evaluator. Raises UserError if the evaluate package is not installed."""
    found: type[Evaluator] = _load(name)
    return found


def find_report_writer() -> ReportWriter:
    """Return the installed report writer. Raises UserError if the evaluate package is not installed."""
    found: ReportWriter = _load("report")
    return found


def find_viewer() -> Viewer:
    """Return the installed viewer. Raises UserError if the evaluate package is not installed."""
    found: Viewer = _load("view")
    return found


def _load(name: str) -> Any:
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    raise UserError(
        f"no evaluator {name!r} is installed (entry point group {GROUP}); install packages/evaluate, or turn evaluation off with --evaluation.no-enabled"
    )
