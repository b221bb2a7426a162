"""A recipe's stages: laid over it key by key, with flags above them, and faults that name the stage."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tanren.common.config import Stage, dump_toml, load_config, load_stages
from tanren.common.errors import UserError
from tanren.common.recipe_command import read_arguments
from tanren.sft.cli import _main
from tanren.sft.command import COMMAND
from tanren.sft.config import SftConfig, StageConfig

RECIPE = """
name = "mine"

[data]
file = "rows.jsonl"

[task.options]
kept = 1

[optim]
lr = 1e-3
warmup_ratio = 0.1

[[stages]]
name = "first"
[stages.task.options]
added = 2

[[stages]]
name = "second"
seed = 7
[stages.optim]
lr = 1e-4
[stages.lora]
target_modules = ["q_proj"]
"""


def _stages(
    folder: Path, text: str, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[Stage[SftConfig], ...]:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    how: dict[str, Any] = {
        "recipe": path,
        "flags": list(flags),
        "environment": environment or {},
        "prefix": "X__",
        "prog": "test",
        "description": "",
    }
    stages = load_stages(SftConfig, **how)
    load_config(SftConfig, **how)
    return stages


def test_a_stage_is_the_recipe_with_its_own_keys_changed_and_their_origins(tmp_path: Path) -> None:
    first, second = _stages(tmp_path, RECIPE)
    assert first.loaded.config.optim.lr == 1e-3
    assert first.loaded.config.task.options == {"kept": 1, "added": 2}
    config = second.loaded.config
    assert (config.seed, config.optim.lr, config.optim.warmup_ratio) == (7, 1e-4, 0.1)
    assert config.lora.target_modules == ["q_proj"]
    assert config.task.options == {"kept": 1}
    assert config.stages == []
    assert second.loaded.origins["optim.lr"] == f"recipe {tmp_path / 'mine.toml'}, stage 'second'"
    assert second.loaded.origins["optim.warmup_ratio"] == f"recipe {tmp_path / 'mine.toml'}"


def test_a_flag_outranks_an_environment_variable_outranks_a_stage_in_every_stage(tmp_path: Path) -> None:
    stages = _stages(tmp_path, RECIPE, ["--optim.lr", "0.5"], {"X__OPTIM__LR": "0.4", "X__SEED": "9"})
    assert [stage.loaded.config.optim.lr for stage in stages] == [0.5, 0.5]
    assert [stage.loaded.config.seed for stage in stages] == [9, 9]
    assert {stage.loaded.origins["optim.lr"] for stage in stages} == {"flag --optim.lr"}
    # what is recorded is a recipe that gives the same without flags
    assert stages[1].changes == {"seed": 9, "optim": {"lr": 0.5}, "lora": {"target_modules": ["q_proj"]}}


def test_stages_are_written_and_read_back(tmp_path: Path) -> None:
    stages = _stages(tmp_path, RECIPE)
    values = {"stages": [{"name": stage.name, **stage.changes} for stage in stages]}
    assert tomllib.loads(dump_toml(values, {})) == values


@pytest.mark.parametrize(
    ("found", "written", "told"),
    [
        ("lr = 1e-4", "lrr = 1e-4", "mine.toml, stage 'second': unknown key 'optim.lrr': did you mean 'lr'?"),
        ("lr = 1e-4", "lr = -1", "mine.toml, stage 'second': optim.lr: found -1"),
        ("[stages.lora]", "[stages.lorra]", "mine.toml, stage 'second': unknown key 'lorra': did you mean 'lora'?"),
        (
            '[stages.lora]\ntarget_modules = ["q_proj"]',
            '[stages.model]\nname = "x/y"',
            "unknown key 'stages.1.model': known keys: name, seed",
        ),
        ('name = "second"', 'name = "first"', "two stages have the name 'first'"),
        ('name = "second"', 'name = "a/b"', "stages.1.name: found 'a/b'"),
        ('name = "second"', "", "stages.1.name"),
        ('name = "mine"', 'name = "mine"\nsede = 3', "mine.toml: unknown key 'sede': did you mean 'seed'?"),
    ],
)
def test_a_fault_is_told_with_the_stage_that_has_it(tmp_path: Path, found: str, written: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        _stages(tmp_path, RECIPE.replace(found, written))
    assert told in str(error.value)


def test_a_stage_can_change_every_section_but_those_that_a_run_has_once() -> None:
    of_the_run = {"name", "model", "tracking", "output", "stages"}
    for name, field in SftConfig.model_fields.items():
        assert name in of_the_run or StageConfig.model_fields[name].annotation == field.annotation, name


def test_the_schema_knows_the_sections_of_a_stage() -> None:
    schema = SftConfig.model_json_schema()
    assert schema["properties"]["stages"]["items"] == {"$ref": "#/$defs/StageConfig"}
    assert schema["$defs"]["StageConfig"]["properties"]["optim"]["$ref"] == "#/$defs/OptimConfig"
    assert schema["$defs"]["StageConfig"]["required"] == ["name"]


def test_a_dry_run_prints_every_stage_with_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    recipe = RECIPE.replace("[task.options]\nkept = 1\n", "").replace("[stages.task.options]\nadded = 2\n", "")
    (tmp_path / "mine.toml").write_text(recipe + "\n[stages.train]\nmax_steps = 9\n", encoding="utf-8")
    flags = ["mine.toml", "--dry-run", "--evaluation.no-enabled", "--model.name", "builtin:tiny-qwen3"]
    assert _main(flags) == 0
    text = capsys.readouterr().out
    assert "# ===== Stage 1 of 2: first" in text
    assert "# parents: the result of stage 'first'" in text
    assert _main([*flags, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["stages"]
    assert (first["config"]["name"], second["config"]["name"]) == ("mine-first", "mine-second")
    assert (first["plan"]["steps"], second["plan"]["steps"]) == (1, 9)
    assert second["origins"]["evaluation.enabled"] == "flag --evaluation.enabled"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ('method = "full"', 'method = "lora"', "stage 'first' has train.method = full: its result is a whole model"),
        ('engine = "native"', 'engine = "unsloth"', "for model.parent and later stages write train.engine = native"),
    ],
)
def test_a_stage_that_the_next_cannot_start_from_is_told_before_the_first_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    stages = "".join(
        f'[[stages]]\nname = "{name}"\n[stages.train]\n{line}\n'
        for name, line in (("first", first), ("second", second))
    )
    recipe = (
        f'[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "rows.jsonl"\n[evaluation]\nenabled = false\n{stages}'
    )
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        _main(["mine.toml"])
    assert not (tmp_path / "runs").exists()


def test_a_command_that_looks_at_one_stage_asks_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(RECIPE, encoding="utf-8")
    looking = replace(COMMAND, runs_stages=False, resumable=False)
    with pytest.raises(UserError, match="add --stage NAME, one of first, second"):
        read_arguments(looking, ["mine.toml"])
    with pytest.raises(UserError, match="has the stages first, second"):
        read_arguments(looking, ["mine.toml", "--stage", "third"])
    request = read_arguments(looking, ["mine.toml", "--stage", "second"])
    assert request is not None
    assert request.loaded.config.optim.lr == 1e-4
