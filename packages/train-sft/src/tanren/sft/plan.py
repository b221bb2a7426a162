"""The plan of a run: everything that can be settled, checked and printed before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.common.chain import Link, TrainedAdapter
from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.parent import settle_parent
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack, load_pack
from tanren.sft.checks import check_effects, check_takes_parent
from tanren.sft.config import SftConfig
from tanren.sft.rows import Selection, listed_source, recipe_sources, rows_by_phase, select_rows

if TYPE_CHECKING:
    from tanren.common.chat import Sample
    from tanren.sft.packing import Steps


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    loaded: Loaded[SftConfig]
    source: ModelSource
    pack: TaskPack | None
    selection: Selection
    heldout_rows: list[Row]
    warnings: tuple[str, ...] = ()
    parent: TrainedAdapter | None = None
    """The adapter that is merged into the model first, with its own parents."""

    def facts(self) -> dict[str, Any]:
        """Return what the run would do, for `--dry-run`."""
        rows = {"validation_rows": self.selection.validation_size} if self.selection.validation_size else {}
        account = {"data": list(self.selection.lines)} if self.selection.lines else {}
        return {
            "model": self.source.describe(),
            "parents": self.parent.lines() if self.parent else [],
            "train_rows": sum(self.selection.sizes),
            "heldout_rows": len(self.heldout_rows),
            **rows,
            "steps": self.steps(self.selection.sizes),
            **account,
        }

    @property
    def config(self) -> SftConfig:
        """The resolved configuration."""
        return self.loaded.config

    def parents(self, dtype: str) -> tuple[Link, ...]:
        """Return the adapters that are merged first, in this order, into weights of that precision."""
        return self.parent.chain(dtype) if self.parent else ()

    def rows_to_train(self, sizes: Sequence[int]) -> list[int]:
        """Return how many rows each phase trains on, each pass's counted; `sizes` are the rows of one pass of each."""
        train, phases = self.config.train, self.config.data.phases
        return rows_by_phase(
            phases, sizes, epochs=train.epochs, max_steps=train.max_steps, rows_per_step=train.rows_per_step
        )

    def steps(self, sizes: Sequence[int]) -> int:
        """Return the number of optimizer steps for phases of that many rows a pass."""
        return sum(math.ceil(rows / self.config.train.rows_per_step) for rows in self.rows_to_train(sizes))

    def lay_out(self, samples: Sequence[Sample], budget: int) -> Steps:
        """Lay out the run in steps, with at most `budget` tokens in a micro-batch."""
        from tanren.sft.packing import lay_out
        from tanren.sft.store import TrainingSamples

        trained = TrainingSamples.of(samples)
        return lay_out(
            trained,
            rows=self.rows_to_train(trained.sizes),
            rows_per_step=self.config.train.rows_per_step,
            budget=budget,
            seed=self.config.seed,
        )


def make_plan(loaded: Loaded[SftConfig], resume: str | None = None) -> Plan:
    """Settle model source, parents, task pack and rows; of a run to resume (as --resume names it) the parent that it has.

    Raises UserError for whatever does not fit together.
    """
    warnings = check_effects(loaded)
    source = resolve_source(loaded.config.model.name, loaded.config.model.revision)
    if loaded.config.model.parent is not None:
        check_takes_parent(loaded.config)
    loaded, parent = settle_parent(loaded, source, resume)
    config = loaded.config
    sources = recipe_sources(config.data)
    if sources:
        return Plan(loaded, source, None, select_rows(sources, config.data, config.seed), [], warnings, parent)
    pack = load_pack(config.task.name, config.task.options)
    train_rows = pack.rows("train")
    wanted = config.evaluation.enabled or config.validation.every_steps
    heldout_rows = pack.rows("heldout") if wanted else []
    if not train_rows:
        raise UserError(f"the task pack {config.task.name} gave no training row; its options ask for none")
    if wanted and not heldout_rows:
        raise UserError(
            f"the task pack {config.task.name} gave no held-out row to evaluate on; raise its option, or "
            "--evaluation.no-enabled --validation.every-steps 0"
        )
    both = {row.prompt for row in train_rows} & {row.prompt for row in heldout_rows}
    if both:
        raise UserError(f"the task pack {config.task.name} leaks: {len(both)} held-out prompts are also trained on")
    selection = select_rows([listed_source(f"pack:{config.task.name}", train_rows)], config.data, config.seed)
    return Plan(loaded, source, pack, selection, heldout_rows, warnings, parent)
