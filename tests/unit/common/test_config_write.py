"""A written configuration reads back as the same configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.common.config import dump_toml, load_config
from tanren.sft.config import SftConfig

_TEXT = st.text(max_size=12)
_SCALAR = st.one_of(
    _TEXT,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
_VALUE = st.recursive(
    _SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(_TEXT, _VALUE, max_size=5))
def test_any_values_that_toml_can_hold_read_back_the_same(values: dict[str, Any]) -> None:
    assert tomllib.loads(dump_toml(values, {})) == values


@settings(max_examples=40)
@given(name=_TEXT, lr=st.floats(1e-12, 1e12), options=st.dictionaries(_TEXT, _VALUE, max_size=3), rank=st.integers(1))
def test_a_configuration_that_was_written_is_a_recipe_for_the_same(
    tmp_path_factory: pytest.TempPathFactory, name: str, lr: float, options: dict[str, Any], rank: int
) -> None:
    config = SftConfig.model_validate(
        {"name": name, "optim": {"lr": lr}, "task": {"options": options}, "lora": {"rank": rank % 2**63 or 1}}
    )
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_text(dump_toml(config.model_dump(mode="json"), {}), encoding="utf-8", newline="")
    loaded = load_config(SftConfig, recipe=path, flags=[], environment={}, prefix="X__", prog="test", description="")
    assert loaded.config == config


def test_each_value_says_where_it_came_from_and_an_unset_one_is_a_comment() -> None:
    values = {"a": 1, "t": {"b": None, "c": [1, 2]}}
    text = dump_toml(values, {"a": "flag --a", "t.c": "recipe r.toml"})
    assert "a = 1  # flag --a" in text
    assert "# b is not set  # default" in text
    assert "]  # recipe r.toml" in text
    assert tomllib.loads(text) == {"a": 1, "t": {"c": [1, 2]}}


def test_a_table_in_a_list_is_written_without_what_is_not_set_and_reads_back_the_same(tmp_path: Path) -> None:
    data = {"sources": [{"name": "a"}, {"name": "b", "revision": "r"}], "upsample": {"metadata.format=toml": 2.0}}
    config = SftConfig.model_validate({"data": data | {"phases": [{"sources": {"a": 0.5, "b": 1}, "epochs": 2}]}})
    path = tmp_path / "written.toml"
    path.write_text(dump_toml(config.model_dump(mode="json"), {}), encoding="utf-8")
    assert '{name = "a", split = "train", layout = "auto", weight = 1.0}' in path.read_text(encoding="utf-8")
    loaded = load_config(SftConfig, recipe=path, flags=[], environment={}, prefix="X__", prog="test", description="")
    assert loaded.config == config


def test_an_origin_with_a_line_break_stays_one_comment() -> None:
    assert tomllib.loads(dump_toml({"a": 1}, {"a": "recipe odd\nname.toml"})) == {"a": 1}


def test_a_run_s_own_settings_are_a_recipe_in_which_nobody_asked_for_the_defaults(tmp_path: Path) -> None:
    config = SftConfig.model_validate({"train": {"max_steps": 3, "log_every": 1}})
    path = tmp_path / "config.toml"
    text = dump_toml(
        config.model_dump(mode="json"), {"train.max_steps": "recipe r.toml", "train.log_every": "recipe r.toml"}
    )
    path.write_text(text.replace('name = "sft"  # default', 'name = "mine"  # default'), encoding="utf-8")
    loaded = load_config(SftConfig, recipe=path, flags=[], environment={}, prefix="X__", prog="test", description="")
    # log_every is the default's value and was asked for; the name was changed by hand, whatever its comment says.
    assert set(loaded.origins) == {"name", "train.max_steps", "train.log_every"}
    assert loaded.values()["train"] == config.model_dump(mode="json")["train"]
