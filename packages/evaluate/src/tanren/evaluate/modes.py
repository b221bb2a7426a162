"""The other readings that a pack has of the same answers (`score_modes`): how many are valid in each, of how many."""

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


def mode_shares(counts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the share of valid answers with its interval in one mode, by format, the pooled one last."""
    groups = {**counts["by_format"], POOLED: counts}
    return {group: share_values(values["valid"], values["total"]) for group, values in groups.items()}
