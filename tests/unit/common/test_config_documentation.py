"""Every field of every command's configuration has a default and a docstring: help and schema come from them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tanren.evaluate.config import EvaluateConfig
from tanren.grpo.config import GrpoConfig
from tanren.sft.config import SftConfig


def _fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        yield f"{path}{name}", field, section
        if section is not None:
            yield from _fields(section, f"{path}{name}.")


@pytest.mark.parametrize("model", [SftConfig, GrpoConfig, EvaluateConfig])
def test_every_field_has_a_default_and_a_docstring(model: type[BaseModel]) -> None:
    fields = list(_fields(model))
    assert len(fields) > 10
    assert not [name for name, field, _ in fields if field.is_required()]
    undocumented = [name for name, field, section in fields if not (section.__doc__ if section else field.description)]
    assert not undocumented


@pytest.mark.parametrize("model", [SftConfig, GrpoConfig, EvaluateConfig])
def test_the_defaults_are_valid_themselves(model: type[BaseModel]) -> None:
    assert model.model_validate_json(model().model_dump_json(), strict=True) == model()


@pytest.mark.parametrize("model", [SftConfig, GrpoConfig, EvaluateConfig])
def test_the_schema_describes_every_setting(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for definition in (schema, *schema["$defs"].values()):
        assert definition["additionalProperties"] is False
        for name, setting in definition["properties"].items():
            assert "$ref" in setting or setting.get("description"), name
