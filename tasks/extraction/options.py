"""The options of the pack."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tanren.common.task_contract import TaskOptions

from .fields import PERSON_KEYS, PersonKey

Language = Literal["en", "ja"]


class Options(TaskOptions):
    """What rows the pack makes. Rows depend on these alone, and more rows begin with the same rows."""

    seed: int = 0
    """Seed of all draws. Which names, towns and companies are held out does not depend on it."""

    train_rows: int = Field(default=1000, ge=0)
    """Rows of the split `train`."""

    heldout_rows: int = Field(default=200, ge=0)
    """Rows of the split `heldout`, which shares no surname, town or company with `train`."""

    languages: tuple[Language, ...] = Field(default=("en", "ja"), min_length=1)
    """Languages of the articles and of the instruction. Rows go round them in this order."""

    negative_share: float = Field(default=0.5, ge=0, le=1)
    """Share of articles without anyone to extract, in each language and in every prefix of the rows."""

    length: Literal["short", "medium", "long"] = "medium"
    """Length of the articles: the news alone or with a sentence beside it, two or three, five to seven."""

    person_keys: tuple[PersonKey, ...] = PERSON_KEYS
    """Keys of a person in the answer. Without `is_offender` only offenders are to be listed; fields that are not asked for
    are not compared."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("languages", "person_keys"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: found {list(values)}, expected each value once; remove the repeated one")
        missing = [key for key in ("name", "act") if key not in self.person_keys]
        if missing:
            raise ValueError(
                f"person_keys: {' and '.join(missing)} missing; offenders are told by their act and compared by their name"
            )
        return self
