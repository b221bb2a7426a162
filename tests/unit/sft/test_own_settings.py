"""What a run writes as its `config.toml` is a recipe, whatever recipe and flags the run was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tanren.common.config import Loaded, dump_toml, load_config
from tanren.sft.config import SftConfig
from tanren.sft.plan import make_plan

QUICKSTART = Path(__file__).parents[3] / "tasks" / "structured" / "recipes" / "quickstart.toml"
TINY = ["--model.name", "builtin:tiny-qwen3", "--model.threads", "1"]


def _loaded(recipe: Path | None, *flags: str, **environment: str) -> Loaded[SftConfig]:
    return load_config(
        SftConfig,
        recipe=recipe,
        flags=flags,
        environment=environment,
        prefix="TANREN_SFT__",
        prog="train-sft",
        description="",
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Output:\na"}]
    path.write_text("".join(json.dumps({"messages": turns, "n": n}) + "\n" for n in range(4)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--data.file ROWS --evaluation.no-enabled",
        "--train.method full --evaluation.no-enabled",
        "--train.max-steps 3 --validation.every-steps 1 --checkpoint.keep-best --validation.restore-best",
        "--data.file ROWS --evaluation.no-enabled --data.learn-answer after_marker --data.markers Output:",
        "--evaluation.every-steps 5 --evaluation.step-rows 4 --train.spike-factor 5",
        "--task.options.train-rows 16 --task.options.heldout_rows 8 --tracking.no-mlflow",
    ],
)
def test_the_settings_of_a_run_are_a_recipe_for_the_same_run(flags: str, rows: Path, tmp_path: Path) -> None:
    given = [str(rows) if flag == "ROWS" else flag for flag in flags.split()]
    plan = make_plan(_loaded(QUICKSTART, *TINY, *given))
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(dump_toml(plan.loaded.values(), plan.loaded.origins), encoding="utf-8")
    again = make_plan(_loaded(first))
    assert again.loaded.values() == plan.loaded.values()
    assert again.facts() == plan.facts()
    second.write_text(dump_toml(again.loaded.values(), again.loaded.origins), encoding="utf-8")
    assert make_plan(_loaded(second)).loaded.values() == plan.loaded.values()


def test_a_flag_of_a_run_still_outranks_its_recipe_and_is_told_once(rows: Path, tmp_path: Path) -> None:
    loaded = _loaded(QUICKSTART, "--data.file", str(rows), TANREN_SFT__EVALUATION__ENABLED="false")
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(dump_toml(loaded.values(), loaded.origins), encoding="utf-8")
    second.write_text(dump_toml(_loaded(first).values(), _loaded(first).origins), encoding="utf-8")
    again = _loaded(second)
    assert again.origins["data.file"] == f"flag --data.file, kept in {second}"
    assert (
        again.origins["evaluation.enabled"] == f"environment variable TANREN_SFT__EVALUATION__ENABLED, kept in {second}"
    )
    assert again.origins["lora.rank"] == f"recipe {second}"
    assert "optim.beta1" not in again.origins
