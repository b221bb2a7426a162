"""The quick questions to the commands: answered without torch, without a traceback, with the right exit code."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SFT, GRPO, EVALUATE, TANREN = "tanren.sft.cli", "tanren.grpo.cli", "tanren.evaluate.cli", "tanren.common.cli"
RECIPE = "tasks/structured/recipes/quickstart.toml"
QUICK = 0.5  # what users should see; told, not asserted: the machine that runs the tests may be busy

Command = Callable[..., Any]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "evaluate.toml"
    path.write_text(
        'name = "quick"\n[model]\nname = "builtin:tiny-qwen3"\n[task]\nname = "structured"\n'
        '[task.options]\nsize = "tiny"\nheldout_rows = 5\n',
        encoding="utf-8",
    )
    return str(path)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (SFT, ["--help"]),
        (SFT, ["schema"]),
        (SFT, ["--dry-run"]),
        (SFT, ["--dry-run", "--json"]),
        (SFT, [RECIPE, "--dry-run", "--optim.lr", "1e-4"]),
        (GRPO, ["--help"]),
        (GRPO, ["schema"]),
        (GRPO, ["--dry-run"]),
        (EVALUATE, ["--help"]),
        (EVALUATE, ["schema"]),
        (EVALUATE, ["RECIPE", "--dry-run"]),
        (EVALUATE, ["RECIPE", "--dry-run", "--json"]),
        (TANREN, ["--help"]),
        (TANREN, ["tasks"]),
        (TANREN, ["doctor", "--help"]),
    ],
)
def test_a_quick_question_is_answered_at_once_without_torch(
    command: Command, recipe: str, module: str, arguments: list[str]
) -> None:
    done = command(module, *[recipe if argument == "RECIPE" else argument for argument in arguments])
    print(f"{module} {' '.join(arguments)}: {done.seconds:.2f} s (target {QUICK} s)")  # noqa: T201
    assert (done.code, done.heavy) == (0, ""), done.err
    assert done.out


def test_the_schema_is_json_and_names_every_section(command: Command) -> None:
    schema = json.loads(command(SFT, "schema").out)
    assert {"model", "optim", "train", "evaluation"} <= schema["properties"].keys()


def test_help_names_every_setting_with_its_docstring(command: Command) -> None:
    out = command(SFT, "--help").out
    assert "--optim.lr" in out
    assert "Peak learning rate." in out
    assert "--resume" in out


def test_a_dry_run_prints_a_recipe_with_origins_and_the_plan_and_writes_nothing(
    command: Command, tmp_path: Path
) -> None:
    recipe = Path(__file__).parents[3] / RECIPE
    done = command(SFT, str(recipe), "--seed", "5", "--dry-run", folder=tmp_path, TANREN_SFT__NAME="mine")
    values = tomllib.loads(done.out)
    assert (values["seed"], values["name"], values["lora"]["rank"]) == (5, "mine", 16)
    assert "seed = 5  # flag --seed" in done.out
    assert 'name = "mine"  # environment variable TANREN_SFT__NAME' in done.out
    assert "beta1 = 0.9  # default" in done.out
    assert "# train_rows: 240" in done.out
    assert "# steps: 30" in done.out  # 240 rows, 8 a step
    assert not list(tmp_path.iterdir())


def test_a_dry_run_as_json_has_configuration_origins_and_plan(command: Command, recipe: str) -> None:
    answer = json.loads(command(EVALUATE, recipe, "--dry-run", "--json").out)
    assert answer["config"]["name"] == "quick"
    assert answer["origins"]["task.options.size"] == f"recipe {recipe}"
    assert answer["plan"]["items"] == 5


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        (SFT, ["--optim.lrr", "1"], "lrr"),
        (SFT, ["--optim.lr", "fast", "--dry-run"], "fast"),
        (SFT, ["--optim.lr", "-1", "--dry-run"], "greater than 0"),
        (SFT, ["missing.toml"], "no file missing.toml"),
        (SFT, ["--json"], "--json has no effect"),
        (SFT, ["--resume"], "--resume has no value"),
        (SFT, ["--dry-run", "--model.name", "builtin:tiny-qwen"], "did you mean 'builtin:tiny-qwen3'?"),
        (SFT, ["--dry-run", "--task.name", "structurd"], "did you mean 'structured'?"),
        (SFT, ["--dry-run", "--task.options.sise", "tiny"], "did you mean 'size'?"),
        (SFT, ["--dry-run", "--data.file", "rows.jsonl", "--evaluation.no-enabled"], "no file rows.jsonl"),
        (EVALUATE, ["RECIPE", "--generation.batch", "1"], "batch"),
        (EVALUATE, ["missing.toml", "--dry-run"], "no file missing.toml"),
        (EVALUATE, ["RECIPE", "--dry-run", "--model.name", "builtin:tiny-qwen"], "did you mean 'builtin:tiny-qwen3'?"),
        (EVALUATE, ["RECIPE", "--dry-run", "--task.options.heldout-rows", "0"], "no held-out row"),
        (EVALUATE, ["RECIPE", "--dry-run", "--candidate", "nowhere"], "no such folder, and not a hub id"),
        (EVALUATE, ["score", "structured"], "Missing"),
        (TANREN, ["row"], "row"),
    ],
)
def test_a_mistake_of_the_user_is_told_with_exit_code_2_and_no_traceback(
    command: Command, recipe: str, module: str, arguments: list[str], told: str
) -> None:
    done = command(module, *[recipe if argument == "RECIPE" else argument for argument in arguments])
    assert done.code == 2, done.err
    assert told in done.err
    assert "Traceback" not in done.err
    assert done.heavy == ""


def test_outside_a_workspace_the_missing_recipe_is_told(command: Command, tmp_path: Path) -> None:
    done = command(SFT, "--dry-run", folder=tmp_path, PIXI_PROJECT_ROOT="")
    assert done.code == 2
    assert "needs the workspace" in done.err


def test_a_reader_that_goes_away_is_no_error(command: Command) -> None:
    import subprocess
    import sys

    code = "from tanren.sft.cli import main; main()"
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; {sys.executable} -c "{code}" schema | head -1'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
