"""The options of the pack."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tanren.common.task_contract import TaskOptions


class Options(TaskOptions):
    """Which states are rows: of weathers that the pack makes, of weather files, or of value files."""

    seed: int = 0
    """Seed of the weathers that are made, and of the episodes that go astray."""

    train_weathers: int = Field(default=20, ge=0)
    """Weathers of three days that are made for the split `train`; 30 rows for each episode."""

    heldout_weathers: int = Field(default=4, ge=0)
    """Weathers that are made for the split `heldout`; they begin in other weeks of the year."""

    weather: tuple[Path, ...] = ()
    """Weather files for `train`, in place of those that are made."""

    heldout_weather: tuple[Path, ...] = ()
    """Weather files for `heldout`, in place of those that are made."""

    values: Path | None = None
    """A value file for `train`: prompts and action values as they stand there (`tanren data tes-q`, or the older form)."""

    heldout_values: Path | None = None
    """A value file for `heldout`."""

    initial_kwh: float = Field(default=150.0, ge=0, le=300)
    """Energy in the storage when the first episode of a weather begins."""

    episodes: int = Field(default=1, ge=1)
    """Episodes of each weather. The first follows the optimum; the others begin anywhere and go astray now and then."""

    prompt: Literal["full", "short"] = "full"
    """full: the forecast hour by hour, the plant and the aim, in about 1500 characters. short: the state in one
    line of rounded numbers, for small models that are trained on it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for split in ("train", "heldout"):
            names = ("weather", "values") if split == "train" else ("heldout_weather", "heldout_values")
            given = [name for name in names if getattr(self, name)]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)}: both say what the rows of {split} are; take one of them")
            count = f"{split}_weathers"
            if given and getattr(self, count) != type(self).model_fields[count].default:
                raise ValueError(f"{count} has no effect beside {given[0]}: nothing is made then; remove it")
        made = not (self.values and self.heldout_values)
        for name in ("initial_kwh", "episodes", "prompt"):
            if not made and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect: all rows are those of value files; remove it")
        return self
