"""What `evaluate control --dry-run` says: what would be controlled, who would be asked how often, what would be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tanren.common.control_contract import Week
from tanren.common.run import RunDirectory

from ._bootstrap import note_on
from ._log import FOLDER, LOG, read_log
from ._resume import NAME
from ._settings import ControlSettings


def plan_facts(
    settings: ControlSettings, weeks: Sequence[Week], runs: Path, run_dir: Path | None, earlier: RunDirectory | None
) -> dict[str, Any]:
    """Return what the run would do, as JSON types."""
    hours = weeks[0].decisions
    total = len(weeks) * hours
    made = _made(earlier)
    facts: dict[str, Any] = {
        "weeks": [f"{week.name}: {hours} decisions" for week in weeks],
        "policy": settings.policy,
        "beside it": [name for name in weeks[0].policies if name != settings.policy],
        "decisions": total,
    }
    if earlier is not None:
        facts["decided already"] = made
    facts |= _asked(settings, len(weeks), total - made)
    run = earlier.path if earlier is not None else run_dir or runs / f"{NAME}-<time>"
    facts["run directory"] = str(run)
    facts["files"] = [f"{FOLDER}/{LOG}", f"{FOLDER}/<week>.svg, of each week", "summary.json", "report.html"]
    note = note_on(len(weeks)) if len(weeks) > 1 else None
    return facts | ({"intervals": note} if note else {})


def _asked(settings: ControlSettings, weeks: int, left: int) -> dict[str, Any]:
    """Return what is said of the model and of how it is asked."""
    candidate, flags = settings.candidate, settings.flags
    if candidate is None:
        return {"model": "none is asked", "model calls": 0}
    generation = candidate.loaded.config.generation
    parents = candidate.trained.parents if candidate.trained is not None else ()
    chain = [*(link.line() for link in parents), *([str(candidate.adapter)] if candidate.adapter is not None else [])]
    together = weeks * flags.count
    how = "greedy" if flags.drawn is None else "drawn, temperature {:g}, top_p {:g}".format(*flags.drawn)
    return {
        "model": " + ".join([candidate.source.describe(), *chain]),
        "prompt": candidate.prompt,
        "engine": f"{generation.engine} on {candidate.loaded.config.model.device}, {how}",
        "model calls": left * flags.count,
        "calls of an hour": f"{together}: {weeks} weeks x {flags.count} samples, in batches of at most {generation.batch_size}",
        "most new tokens": left * flags.count * generation.max_new_tokens,
    }


def _made(earlier: RunDirectory | None) -> int:
    log = earlier.path / FOLDER / LOG if earlier is not None else None
    return len(read_log(log)) if log is not None and log.is_file() else 0
