"""`tanren plan`: what it prints, writes and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.command import run_command
from tanren.common.config import load_config
from tanren.common.plan import run_plan
from tanren.sft.config import SftConfig

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
Plan = Callable[..., tuple[int, str, str]]
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"add {n} and 1"},
            {"role": "assistant", "content": f"it is {n + 1} " * 40},
        ]
    }
    for n in range(16)
]


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Return a function that plans a recipe with the tiny model: exit code, standard output, standard error."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "rows.jsonl"\n'
        "[evaluation]\nenabled = false\n[tracking]\nmlflow = false\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(run_plan, ["tiny.toml", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("name", ["train-sft", "train-grpo"])
def test_schema_and_settings_are_answered_without_torch(command: Callable[..., Any], name: str) -> None:
    done = command("tanren.common.cli", "plan", "schema", "--for", name)
    assert json.loads(done.out)["properties"]["train"]
    assert done.heavy == ""
    done = command("tanren.common.cli", "plan", "--for", name, "--help")
    assert done.code == 0
    assert "--fit: choose micro-batch and checkpointing" in done.out
    assert done.heavy == ""


def test_the_plan_of_a_gpu_that_is_not_here(plan: Plan) -> None:
    code, out, _ = plan("--gpu", "RTX 5080")
    assert code == 0
    assert "builtin:tiny-qwen3: 123,456 parameters, 32,768 trained" in out
    assert "RTX 5080 (not this machine's), 15.9 of 15.9 GiB free; attention varlen" in out
    assert "fits: 0.7 of 15.9 GiB" in out
    assert "2 steps" in out


def test_what_does_not_fit_ends_with_exit_code_1_and_says_what_would(plan: Plan) -> None:
    code, out, _ = plan("--gpu", "H100", "--memory", "0.5")
    assert code == 1
    assert "does not fit: 0.7 of 0.5 GiB" in out
    assert "a GPU with" in out


def test_json_is_one_object_with_the_numbers_of_the_table(plan: Plan) -> None:
    code, out, err = plan("--gpu", "H100", "--json", "--train.gradient-checkpointing", "full")
    values = json.loads(out)
    assert code == 0
    assert values["verdict"] == "fits"
    assert values["settings"] == {"train.micro_batch_tokens": 2048, "train.gradient_checkpointing": "full"}
    assert values["allocated"] == sum(values["memory"].values())
    assert values["needed"] > values["allocated"]
    assert values["steps"] == 2
    assert values["model"]["parameters"] == 123_456
    assert "trace" in err


def test_a_fitted_recipe_is_the_same_recipe_with_the_choice_frozen(plan: Plan, tmp_path: Path) -> None:
    code, out, _ = plan("--gpu", "H100", "--fit", "--write", "fitted.toml", "--lora.rank", "4")
    assert code == 0
    assert "chosen" in out
    text = (tmp_path / "fitted.toml").read_text(encoding="utf-8")
    loaded = load_config(
        SftConfig, recipe=Path("fitted.toml"), flags=[], environment={}, prefix="X", prog="x", description=""
    )
    assert loaded.config.lora.rank == 4
    assert f"micro_batch_tokens = {loaded.config.train.micro_batch_tokens}  # plan" in text
    assert loaded.config.train.gradient_checkpointing == "none"


def test_settings_left_at_auto_are_chosen_without_being_asked(plan: Plan) -> None:
    _, out, _ = plan("--gpu", "H100", "--json", "--train.micro-batch-tokens", "auto")
    values = json.loads(out)
    assert values["tried"]
    assert isinstance(values["settings"]["train.micro_batch_tokens"], int)


def test_a_probe_measures_two_steps_on_this_machine_and_corrects_the_time(plan: Plan) -> None:
    code, out, _ = plan("--probe", "--json", "--model.device", "cpu")
    values = json.loads(out)
    assert code == 0
    assert values["probe"]["seconds"] > 0
    assert values["probe"]["resident"] > 2**26  # a process with torch
    micro_batch = values["total_seconds"] / values["micro_batches"]
    assert micro_batch == pytest.approx(values["probe"]["seconds"], rel=0.5)  # which is the largest one's


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpu", "H1000"], "--gpu 'H1000' is in no table: did you mean 'H100'? known are B300"),
        (["--memory", "much"], "--memory 'much': expected the device's memory in GiB"),
        (["--gpu", "H100", "--probe"], "--probe runs on this machine's device, and the plan is for H100"),
        (["--gpu", "H100", "--write", "x.toml"], "--write writes what was chosen, and nothing is"),
        (["--for", "train-dpo"], "--for 'train-dpo': no such planner is installed; known: "),
        (
            ["--train.gradient-checkpointing", "true"],
            "train.gradient_checkpointing: found true; it is no switch any more: write 'full'",
        ),
        (["--dry-run"], "--dry-run has no effect on a plan"),
    ],
)
def test_a_mistake_is_told_with_exit_code_2(plan: Plan, arguments: list[str], told: str) -> None:
    code, _, err = plan(*arguments)
    assert code == 2
    assert told in err
