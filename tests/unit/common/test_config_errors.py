"""What a wrong recipe, environment variable or flag is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tanren.common.config import load_config
from tanren.common.errors import UserError
from tanren.sft.config import SftConfig

PREFIX = "TANREN_SFT__"


def _refusal(recipe: Path | None = None, flags: Sequence[str] = (), **environment: str) -> str:
    variables = {PREFIX + name: value for name, value in environment.items()}
    with pytest.raises(UserError) as caught:
        load_config(
            SftConfig, recipe=recipe, flags=flags, environment=variables, prefix=PREFIX, prog="test", description=""
        )
    return str(caught.value)


def _recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("sed = 1", "sed", "seed"),
        ("[optim]\nlearning_rat = 1.0\nlrr = 1.0", "optim.lrr", "lr"),
        ("[modle]\nname = 'x'", "modle", "model"),
        ("[train]\nrow_per_step = 1", "train.row_per_step", "rows_per_step"),
        ("[[data.sources]]\nname = 'x'\nwieght = 2", "data.sources.0.wieght", "weight"),
    ],
)
def test_an_unknown_key_of_a_recipe_is_told_with_the_nearest_known_one(
    tmp_path: Path, text: str, key: str, nearest: str
) -> None:
    path = _recipe(tmp_path, text)
    assert f"recipe {path}: unknown key {key!r}: did you mean {nearest!r}?" in _refusal(path)


def test_an_unknown_key_that_resembles_none_is_told_with_all_known_ones(tmp_path: Path) -> None:
    message = _refusal(_recipe(tmp_path, "[checkpoint]\nzzz = 1"))
    assert "unknown key 'checkpoint.zzz': known keys: every_steps, keep" in message


@pytest.mark.parametrize(
    ("variable", "key", "nearest"), [("SED", "sed", "seed"), ("OPTIM__WARMUP", "optim.warmup", "warmup_ratio")]
)
def test_an_unknown_key_of_a_variable_is_told_with_the_nearest_known_one(variable: str, key: str, nearest: str) -> None:
    message = _refusal(None, [], **{variable: "1"})
    assert message == f"environment variable {PREFIX}{variable}: unknown key {key!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[optim]\nlr = "0.1"', "optim.lr: found '0.1'"),
        ("name = 3", "name: found 3"),
        ("seed = 1.5", "seed: found 1.5"),
        ("seed = true", "seed: found True"),
        ("[tracking]\nmlflow = 1", "tracking.mlflow: found 1"),
        ("model = 'x'", "model: found 'x'"),
        ("[optim]\nlr = -1.0", "optim.lr: found -1.0"),
        ("[optim]\nlr = nan", "optim.lr: found"),
        ("[train]\nrows_per_step = 0", "train.rows_per_step: found 0"),
        ("[data]\ntoo_long = 'cut'", "data.too_long: found 'cut'"),
    ],
)
def test_a_wrong_value_of_a_recipe_is_told_with_its_key_and_what_was_found(
    tmp_path: Path, text: str, told: str
) -> None:
    path = _recipe(tmp_path, text)
    assert f"recipe {path}: {told}" in _refusal(path)


def test_a_whole_number_is_good_where_a_number_is_expected(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "[optim]\nlr = 1")
    loaded = load_config(SftConfig, recipe=path, flags=[], environment={}, prefix=PREFIX, prog="test", description="")
    assert loaded.config.optim.lr == 1.0


def test_every_fault_of_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    assert len(_refusal(_recipe(tmp_path, "sed = 1\nname = 2\n[optim]\nlr = 'x'")).splitlines()) == 3


def test_a_wrong_value_of_a_variable_is_told_with_the_variable() -> None:
    message = _refusal(None, [], OPTIM__LR="fast")
    assert message.startswith(f"environment variable {PREFIX}OPTIM__LR: optim.lr: found 'fast'")


def test_a_missing_recipe_is_told_with_the_nearest_one_beside_it(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "")
    assert f"no file {tmp_path / 'recip.toml'}; {path} is there" in _refusal(tmp_path / "recip.toml")
    assert "check the path" in _refusal(tmp_path / "elsewhere" / "x.toml")


@pytest.mark.parametrize("kind", ["folder", "below a file", "too long a name"])
def test_a_recipe_that_cannot_be_read_is_told(tmp_path: Path, kind: str) -> None:
    path = {
        "folder": tmp_path,
        "below a file": _recipe(tmp_path, "") / "x.toml",
        "too long a name": tmp_path / ("x" * 5000 + ".toml"),
    }[kind]
    assert "the recipe cannot be read" in _refusal(path)


@pytest.mark.parametrize("data", [b"name = ", b"name = 'a'\nname = 'b'", b"\xff\xfen\x00", b"[a\n"])
def test_a_recipe_that_is_not_toml_in_utf8_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(data)
    assert f"the recipe is not valid TOML: {path}" in _refusal(path)


def test_a_free_form_flag_without_a_value_is_told() -> None:
    assert "flag --task.options.seed has no value" in _refusal(None, ["--task.options.seed"])


@pytest.mark.parametrize("flag", ["--optim.lr", "--train.rows-per-step"])
def test_a_flag_out_of_range_is_told_without_a_traceback(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((UserError, SystemExit)) as caught:
        load_config(
            SftConfig, recipe=None, flags=[flag, "0"], environment={}, prefix=PREFIX, prog="test", description=""
        )
    told = str(caught.value) + capsys.readouterr().err
    assert getattr(caught.value, "code", 2) == 2
    assert "greater than" in told


def test_a_key_below_a_value_is_told(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "name = 'mine'\n[task.options]\na = 1")
    assert f"{PREFIX}NAME__X" in _refusal(path, [], NAME__X="1")
    assert "--task.options.a.b" in _refusal(path, ["--task.options.a.b", "1"])
