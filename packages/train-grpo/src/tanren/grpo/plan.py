"""The plan of a run: everything that can be settled, checked and printed before torch is imported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tanren.common.chain import Link, TrainedAdapter
from tanren.common.completions import Structured
from tanren.common.config import Loaded
from tanren.common.data import PROMPT, Source, read_rows
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.parent import settle_parent
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack, load_pack
from tanren.common.values import value_rows
from tanren.grpo.checks import check_effects
from tanren.grpo.config import GrpoConfig
from tanren.grpo.rewards import check_rewards
from tanren.grpo.structured import describe_structured, read_structured


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    loaded: Loaded[GrpoConfig]
    source: ModelSource
    pack: TaskPack | None
    """Parses and rewards; None where a file gives the prompts and no pack is named."""
    rows: list[Row]
    """Those whose prompts are trained on."""
    heldout_rows: list[Row]
    warnings: tuple[str, ...] = ()
    parent: TrainedAdapter | None = None
    """The adapter that is merged into the model first, with its own parents: without the new one, the reference."""
    structured: Structured | None = None
    """The form that every completion has."""

    @property
    def config(self) -> GrpoConfig:
        """The resolved configuration."""
        return self.loaded.config

    def parents(self, dtype: str) -> tuple[Link, ...]:
        """Return the adapters that are merged first, in this order, into weights of that precision."""
        return self.parent.chain(dtype) if self.parent else ()

    def facts(self) -> dict[str, Any]:
        """Return what the run would do, for `--dry-run`."""
        rollout, train = self.config.rollout, self.config.train
        completions = rollout.prompts_per_step * rollout.completions_per_prompt
        drawn = train.steps * rollout.prompts_per_step
        facts = {
            "model": self.source.describe(),
            "parents": self.parent.lines() if self.parent else [],
            "prompts": len(self.rows),
            "heldout_rows": len(self.heldout_rows),
            "steps": train.steps,
            "completions_per_step": f"{rollout.prompts_per_step} prompts x {rollout.completions_per_prompt} = {completions}",
            "updates": f"{train.updates_per_step} a step, each on {completions // train.updates_per_step} completions",
            "epochs": f"{drawn} prompts drawn, {drawn / len(self.rows):.2f} times all {len(self.rows)}",
        }
        if self.structured is not None:
            facts["structured"] = describe_structured(self.structured)
        return facts


def make_plan(loaded: Loaded[GrpoConfig], resume: str | None = None) -> Plan:
    """Settle model source, parent, task pack and rows; of a run to resume (as --resume names it) the parent that it has.

    Raises UserError for whatever does not fit together.
    """
    warnings = check_effects(loaded)
    structured, told = read_structured(loaded.config.rollout.structured)
    source = resolve_source(loaded.config.model.name, loaded.config.model.revision)
    loaded, parent = settle_parent(loaded, source, resume)
    config = loaded.config
    named = config.data.file is None or any(name.startswith("task.") for name in loaded.origins)
    pack = load_pack(config.task.name, config.task.options) if named else None
    check_rewards(config.rewards, has_pack=pack is not None)
    if pack is None and config.evaluation.enabled:
        raise UserError(
            "evaluation needs a task pack's held-out rows, and data.file replaces the pack; turn it off with --evaluation.no-enabled"
        )
    rows = pack.rows("train") if pack is not None and config.data.file is None else _rows_of_file(config)
    heldout = pack.rows("heldout") if pack is not None and config.evaluation.enabled else []
    if not rows:
        raise UserError(f"the task pack {config.task.name} gave no training row; its options ask for none")
    if config.evaluation.enabled and not heldout:
        raise UserError(
            f"the task pack {config.task.name} gave no held-out row to evaluate on; raise its option, or --evaluation.no-enabled"
        )
    both = {row.prompt for row in rows} & {row.prompt for row in heldout}
    if both:
        raise UserError(
            f"{len(both)} prompts are held out for evaluation and trained on; take them out of one of the two"
        )
    wanted = config.rollout.prompts_per_step
    if wanted > len(rows):
        raise UserError(
            f"rollout.prompts_per_step = {wanted}, and there are {len(rows)} prompts: a step takes none twice; write at most {len(rows)}"
        )
    return Plan(loaded, source, pack, rows, heldout, (*warnings, *told), parent, structured)


def _rows_of_file(config: GrpoConfig) -> list[Row]:
    """Read the prompts of data.file; ids tell rows apart in every log, so one that comes twice is an error."""
    file = config.data.file
    assert file is not None
    if file.name.lower().endswith(".csv"):
        return value_rows(file.expanduser())
    rows = list(read_rows(Source(Source.of_file(file).name, layout=PROMPT)))
    twice = [row_id for row_id, times in Counter(row.id for row in rows).items() if times > 1]
    if twice:
        raise UserError(f"{file}: the id {twice[0]!r} comes more than once; give each row its own, or none")
    return rows
