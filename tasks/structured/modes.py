"""Three readings of the same answers side by side: lenient, strict and compatible (README.md, "Three modes")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tanren.common.task_contract import Row

from .compatible import StructEvalScore, structeval_score
from .formats import FORMATS
from .lenient import is_syntax_valid
from .limits import MAX_COMPLETION
from .strict import strict_error
from .structeval_tasks import source_of
from .values import Value


@dataclass(frozen=True, slots=True)
class ModeVerdicts:
    """One answer in the three modes."""

    lenient: bool
    strict: str | None  # why not, None where it is right
    compatible: StructEvalScore


def read_modes(completion: str, row: Row, source: tuple[str, Value] | None) -> ModeVerdicts:
    """Judge one answer in the three modes; `source` as `source_of(row)` gives it."""
    if len(completion) > MAX_COMPLETION:
        return ModeVerdicts(False, "too long", StructEvalScore(0, 0.0, 0.0))
    return ModeVerdicts(
        is_syntax_valid(completion, row.group),
        strict_error(completion, row, source),
        structeval_score(completion, row.group, row.metadata.get("raw_output_metric", ())),
    )


def score_modes(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return for each mode how many answers are valid, of how many, and that by format.

    `strict` also says how many were compared with a value (`compared`), `compatible` the mean StructEval-T score of the
    tasks that have paths (`score`, None without any; `scored`, how many).
    """
    sources = [source_of(row) for row in rows]
    verdicts = [read_modes(*item) for item in zip(completions, rows, sources, strict=True)]
    scores = [score for score in _scores(verdicts, rows) if score is not None]
    compared = sum(source is not None or row.expected is not None for source, row in zip(sources, rows, strict=True))
    return {
        "lenient": _counts([verdict.lenient for verdict in verdicts], rows),
        "strict": _counts([verdict.strict is None for verdict in verdicts], rows) | {"compared": compared},
        "compatible": _counts([verdict.compatible.render_score == 1 for verdict in verdicts], rows)
        | {"score": round(sum(scores) / len(scores), 4) if scores else None, "scored": len(scores)},
    }


def mode_values(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return for each mode what every answer is worth: 1 where it is valid, else 0; in `compatible` its StructEval-T score.

    None is what a mode does not judge: a task without paths has no such score.
    """
    verdicts = [read_modes(text, row, source_of(row)) for text, row in zip(completions, rows, strict=True)]
    return {
        "lenient": [float(verdict.lenient) for verdict in verdicts],
        "strict": [float(verdict.strict is None) for verdict in verdicts],
        "compatible": _scores(verdicts, rows),
    }


def _scores(verdicts: Sequence[ModeVerdicts], rows: Sequence[Row]) -> list[float | None]:
    """Return the StructEval-T scores; None for the tasks that have no paths."""
    return [
        verdict.compatible.final_eval_score if row.metadata.get("raw_output_metric") else None
        for verdict, row in zip(verdicts, rows, strict=True)
    ]


def _counts(valid: Sequence[bool], rows: Sequence[Row]) -> dict[str, Any]:
    by_format: dict[str, dict[str, int]] = {}
    for entry in FORMATS.values():
        of_format = [one for one, row in zip(valid, rows, strict=True) if row.group == entry.name]
        if of_format:
            by_format[entry.title] = {"valid": sum(of_format), "total": len(of_format)}
    return {"valid": sum(valid), "total": len(valid), "by_format": by_format}
