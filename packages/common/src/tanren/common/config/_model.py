"""The base of every configuration model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Frozen; an unknown key is an error; the docstring under a field is its help, in `--help` and in the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Describe each section by its own docstring: with none, the command line would parse the source to find one."""
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            if (
                field.description is None
                and isinstance(field.annotation, type)
                and issubclass(field.annotation, BaseModel)
            ):
                field.description = field.annotation.__doc__
