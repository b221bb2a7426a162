"""Every recipe of the packs is one that its command takes: known keys, settings that have an effect, rows to begin with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tanren.common.config import load_config
from tanren.evaluate.config import EvaluateConfig
from tanren.grpo.config import GrpoConfig
from tanren.grpo.plan import make_plan as make_grpo_plan
from tanren.sft.config import SftConfig
from tanren.sft.plan import make_plan as make_sft_plan

TASKS = Path(__file__).resolve().parents[3] / "tasks"
RECIPES = sorted(TASKS.glob("*/recipes/*.toml"))
PARENT = re.compile(r'^parent = "latest:([^"]+)".*$', re.MULTILINE)
ELSEWHERE = re.compile(r'^(parent = "latest:|values = ).*$', re.MULTILINE)
THOUSANDS = re.compile(r"^train_rows = \d{4,}", re.MULTILINE)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parents[1].name}/{path.stem}")
def test_a_recipe_of_a_pack_makes_a_plan(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    parents = PARENT.findall(text)
    siblings = [tomllib.loads(one.read_text(encoding="utf-8"))["name"] for one in path.parent.glob("*.toml")]
    assert set(parents) <= set(siblings), "a recipe of the same folder is the parent"
    # No run is there to go on from, no value file, and the large models are not on every machine.
    recipe = tmp_path / path.name
    recipe.write_text(THOUSANDS.sub("train_rows = 200", ELSEWHERE.sub("", text)), encoding="utf-8")
    tiny = ["--model.name", "builtin:tiny-qwen3"]
    keys = tomllib.loads(text)
    if "rollout" in keys:
        assert make_grpo_plan(_loaded(GrpoConfig, recipe, tiny)).rows
    elif "lora" in keys:
        assert sum(make_sft_plan(_loaded(SftConfig, recipe, tiny)).selection.sizes)
    else:
        assert _loaded(EvaluateConfig, recipe, tiny).config.task.name == path.parents[1].name


def _loaded(config: type[Any], recipe: Path, flags: list[str]) -> Any:
    return load_config(config, recipe=recipe, flags=flags, environment={}, prefix="X__", prog="x", description="")
