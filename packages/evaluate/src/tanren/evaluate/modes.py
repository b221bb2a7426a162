"""The other readings that a pack has of the same answers: how many are valid in each (`score_modes`), what each is worth (`mode_values`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.scoring import POOLED, Judged, share_values


def pack_modes(pack: TaskPack, completions: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return the counts of each mode, by its name; {} for a pack that has no others."""
    score_modes = getattr(pack.module, "score_modes", None)
    return {} if score_modes is None else dict(score_modes(completions, rows))


def modes_of(pack: TaskPack, judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Return the same of judged items; of several samples the first, as a mode knows no others."""
    return pack_modes(pack, [one.prediction.completion for one in judged], [one.row for one in judged])


def values_by_mode(pack: TaskPack, completions: Sequence[str], rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return of each mode that says it what every answer is worth, from 0 to 1; None for what it does not judge."""
    mode_values = getattr(pack.module, "mode_values", None)
    return {} if mode_values is None else dict(mode_values(completions, rows))


def item_values(pack: TaskPack, judged: Sequence[Judged], mode: str) -> list[float | None]:
    """Return what each judged item is worth in one mode; of several samples the mean."""
    pairs = [(prediction.completion, one.row) for one in judged for prediction, _ in one.samples]
    values = iter(values_by_mode(pack, [text for text, _ in pairs], [row for _, row in pairs])[mode])
    return [_mean([next(values) for _ in one.samples]) for one in judged]


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return sum(given) / len(given) if given else None


def mode_shares(counts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the share of valid answers with its interval in one mode, by format, the pooled one last."""
    groups = {**counts["by_format"], POOLED: counts}
    return {group: share_values(values["valid"], values["total"]) for group, values in groups.items()}
