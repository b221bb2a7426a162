"""Recipe, environment variables and flags: which one wins, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tanren.common.config import Loaded, load_config
from tanren.sft.config import SftConfig

PREFIX = "TANREN_SFT__"


def _load(recipe: Path | None = None, flags: Sequence[str] = (), **environment: str) -> Loaded[SftConfig]:
    variables: Mapping[str, str] = {PREFIX + name: value for name, value in environment.items()}
    return load_config(
        SftConfig, recipe=recipe, flags=flags, environment=variables, prefix=PREFIX, prog="test", description=""
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "mine"\n[optim]\nlr = 0.25\nbeta1 = 0.5\n[task.options]\nsize = "tiny"\n', encoding="utf-8")
    return path


def test_without_anything_every_value_is_the_default_and_has_no_other_origin() -> None:
    loaded = _load()
    assert loaded.config == SftConfig()
    assert not loaded.origins


def test_a_recipe_overrides_the_default(recipe: Path) -> None:
    loaded = _load(recipe)
    assert (loaded.config.optim.lr, loaded.config.optim.beta1, loaded.config.optim.beta2) == (0.25, 0.5, 0.999)
    assert loaded.origins["optim.lr"] == f"recipe {recipe}"
    assert "optim.beta2" not in loaded.origins


def test_an_environment_variable_overrides_the_recipe(recipe: Path) -> None:
    loaded = _load(recipe, OPTIM__LR="0.125")
    assert (loaded.config.optim.lr, loaded.config.optim.beta1) == (0.125, 0.5)
    assert loaded.origins["optim.lr"] == "environment variable TANREN_SFT__OPTIM__LR"
    assert loaded.origins["optim.beta1"] == f"recipe {recipe}"


@pytest.mark.parametrize("flags", [("--optim.lr", "0.0625"), ("--optim.lr=0.0625",)])
def test_a_flag_overrides_everything(recipe: Path, flags: Sequence[str]) -> None:
    loaded = _load(recipe, flags, OPTIM__LR="0.125")
    assert loaded.config.optim.lr == 0.0625
    assert loaded.origins["optim.lr"] == "flag --optim.lr"


def test_a_flag_with_hyphens_is_recorded_under_the_name_of_its_field() -> None:
    loaded = _load(None, ["--train.rows-per-step", "3", "--tracking.no-mlflow"])
    assert (loaded.config.train.rows_per_step, loaded.config.tracking.mlflow) == (3, False)
    assert set(loaded.origins) == {"train.rows_per_step", "tracking.mlflow"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("large", "large"), ('["a", "b"]', ["a", "b"]), ('"3"', "3")],
)
def test_a_free_form_option_is_read_as_a_toml_value_else_as_text(text: str, value: object) -> None:
    for loaded in (
        _load(None, ["--task.options.x", text]),
        _load(None, [f"--task.options.x={text}"]),
        _load(None, [], TASK__OPTIONS__X=text),
    ):
        assert loaded.config.task.options == {"x": value}
        assert type(loaded.config.task.options["x"]) is type(value)


def test_free_form_options_of_recipe_variable_and_flag_are_merged(recipe: Path) -> None:
    loaded = _load(recipe, ["--task.options.seed", "7"], TASK__OPTIONS__STRINGS="plain")
    assert loaded.config.task.options == {"size": "tiny", "strings": "plain", "seed": 7}
    assert loaded.origins["task.options.seed"] == "flag --task.options.seed"
    assert loaded.origins["task.options.strings"] == "environment variable TANREN_SFT__TASK__OPTIONS__STRINGS"
    assert loaded.origins["task.options.size"] == f"recipe {recipe}"


def test_a_variable_for_a_text_field_stays_text_though_it_looks_like_a_number() -> None:
    loaded = _load(None, [], NAME="1", MODEL__REVISION="2024")
    assert (loaded.config.name, loaded.config.model.revision) == ("1", "2024")


def test_a_variable_for_a_path_stays_a_path_though_it_looks_like_a_number() -> None:
    assert _load(None, [], OUTPUT__RUN_DIR="2024").config.output.run_dir == Path("2024")


def test_a_value_that_is_not_set_is_none_and_a_recipe_can_set_it(tmp_path: Path) -> None:
    assert _load().config.output.run_dir is None
    path = tmp_path / "r.toml"
    path.write_text('[output]\nrun_dir = "there"\n', encoding="utf-8")
    assert _load(path).config.output.run_dir == Path("there")
    assert _load(path, ["--output.run-dir", "None"]).config.output.run_dir is None


def test_variables_of_other_commands_are_not_read() -> None:
    loaded = load_config(
        SftConfig,
        recipe=None,
        flags=[],
        environment={"TANREN_EVALUATE__NAME": "x", "PATH": "/bin"},
        prefix=PREFIX,
        prog="test",
        description="",
    )
    assert loaded.config.name == "sft"
