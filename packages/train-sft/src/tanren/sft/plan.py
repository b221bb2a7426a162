"""The plan of a run: everything that can be settled, checked and printed before torch is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tanren.common.config import Loaded, flatten
from tanren.common.conversations import read_conversations
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack, load_pack
from tanren.sft.config import SftConfig


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    loaded: Loaded[SftConfig]
    source: ModelSource
    pack: TaskPack | None
    train_rows: list[Row]
    heldout_rows: list[Row]
    warnings: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what the run would do, for `--dry-run`."""
        return {
            "model": self.source.describe(),
            "train_rows": len(self.train_rows),
            "heldout_rows": len(self.heldout_rows),
            "steps": self.steps(len(self.train_rows)),
        }

    @property
    def config(self) -> SftConfig:
        """The resolved configuration."""
        return self.loaded.config

    def rows_to_train(self, samples: int) -> int:
        """Return how many rows are trained on, each epoch's counted, out of `samples` different ones."""
        train = self.config.train
        return train.max_steps * train.rows_per_step or max(1, round(samples * train.epochs))

    def steps(self, samples: int) -> int:
        """Return the number of optimizer steps for that many samples."""
        return math.ceil(self.rows_to_train(samples) / self.config.train.rows_per_step)


def make_plan(loaded: Loaded[SftConfig]) -> Plan:
    """Settle model source, task pack and rows. Raises UserError for whatever does not fit together."""
    config = loaded.config
    warnings = _check_effects(loaded)
    source = resolve_source(config.model.name, config.model.revision)
    if config.data.file is not None:
        return Plan(loaded, source, None, read_conversations(config.data.file), [], warnings)
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
    return Plan(loaded, source, pack, train_rows, heldout_rows, warnings)


def _check_effects(loaded: Loaded[SftConfig]) -> tuple[str, ...]:
    """Refuse settings that would have no effect in this run; return a warning where a flag outranks the recipe."""
    config, origins = loaded.config, loaded.origins
    warnings: list[str] = []
    if config.data.file is not None:
        named = [name for name in origins if name.startswith("task.")]
        by_recipe = all(origins[name].startswith("recipe") for name in named)
        if named and (not by_recipe or origins["data.file"].startswith("recipe")):
            raise UserError(f"{named[0]} ({origins[named[0]]}) has no effect with data.file; remove one of the two")
        if named:
            warnings.append(
                f"data.file ({origins['data.file']}) replaces the task pack: {', '.join(named)} have no effect"
            )
        if config.evaluation.enabled:
            raise UserError(
                "evaluation needs a task pack's held-out rows, and data.file replaces the pack; turn it off with --evaluation.no-enabled"
            )
    if config.train.max_steps and "train.epochs" in origins:
        raise UserError(
            f"train.epochs ({origins['train.epochs']}) has no effect with train.max_steps = {config.train.max_steps}; remove one of the two"
        )
    _check_learned(loaded)
    _check_adapter(config)
    _check_between_steps(loaded)
    if not config.tracking.mlflow:
        for name in ("tracking.mlflow_uri", "tracking.experiment"):
            if name in origins:
                raise UserError(
                    f"{name} ({origins[name]}) has no effect with tracking.mlflow off; remove one of the two"
                )
    return tuple(warnings)


def _check_learned(loaded: Loaded[SftConfig]) -> None:
    data, origins = loaded.config.data, loaded.origins
    if data.learn_answer == "whole":
        for name in ("data.markers", "data.no_marker"):
            if name in origins:
                raise UserError(
                    f"{name} ({origins[name]}) has no effect with data.learn_answer = whole; remove it, or set "
                    "data.learn_answer to after_marker or from_marker"
                )
    elif not data.markers or not all(marker.strip() for marker in data.markers):
        raise UserError(f"data.markers: found {data.markers!r}, expected words that stand before the result")


def _check_between_steps(loaded: Loaded[SftConfig]) -> None:
    """Refuse what hangs on a validation or an evaluation that does not take place."""
    config, origins = loaded.config, loaded.origins
    if config.data.file is not None and config.validation.every_steps:
        raise UserError(
            "validation.every_steps needs held-out rows, and data.file has none; use a task pack, or remove validation.every_steps"
        )
    needs = (
        ("validation.patience", "validation.every_steps"),
        ("validation.min_delta", "validation.every_steps"),
        ("validation.restore_best", "checkpoint.keep_best"),
        ("checkpoint.keep_best", "validation.every_steps"),
        ("evaluation.every_steps", "evaluation.enabled"),
        ("evaluation.step_rows", "evaluation.every_steps"),
        ("train.spike_patience", "train.spike_factor"),
    )
    values = flatten(config.model_dump())
    for name, needed in needs:
        if name in origins and values[name] and not values[needed]:
            raise UserError(f"{name} ({origins[name]}) has no effect without {needed}; remove it, or set {needed}")
    if "optim.min_lr_ratio" in origins and config.optim.schedule == "constant":
        raise UserError(
            f"optim.min_lr_ratio ({origins['optim.min_lr_ratio']}) has no effect with optim.schedule = constant; remove one of the two"
        )


def _check_adapter(config: SftConfig) -> None:
    if config.lora.target_parameters and config.lora.dropout:
        raise UserError(
            f"lora.dropout = {config.lora.dropout} cannot be had with lora.target_parameters: what is learned there is added "
            "to the weights themselves, so there is no input to drop; write lora.dropout = 0"
        )
