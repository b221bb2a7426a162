"""The pack's rows, prompts, reward and score, and the value files that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from tanren.common.cli import _main
from tanren.common.command import run_command
from tanren.common.errors import UserError
from tanren.common.task_contract import Verdict
from tanren.common.task_packs import load_command, load_pack, pack_commands
from tanren.common.values import boltzmann, value_rows, values_of
from tanren.evaluate.measures import pack_scores
from tanren.grpo.rewards import RewardConfig, Rewards
from tasks.tes import task
from tasks.tes.task import Options

ROOT = Path(__file__).resolve().parents[3]


def test_rows_are_the_states_of_the_best_policy_and_the_same_for_the_same_options() -> None:
    options = Options(train_weathers=2, heldout_weathers=1, episodes=2)
    rows = task.rows("train", options)
    assert len(rows) == 2 * 2 * 30
    assert rows == task.rows("train", options)
    assert rows[:30] == task.rows("train", Options(train_weathers=1))  # more rows begin with the same ones
    assert len({row.id for row in rows}) == len(rows)
    assert not {row.prompt for row in rows} & {row.prompt for row in task.rows("heldout", options)}
    assert json.loads(json.dumps(rows[0].metadata)) == rows[0].metadata
    for row in rows:
        assert row.reference == row.group == f"[{row.expected}]"
        assert task.parse(row.reference, row).verdict is Verdict.CORRECT
        assert max(values_of(row)) == values_of(row)[row.expected]


def test_a_prompt_has_the_state_and_what_is_ahead_in_exact_numbers() -> None:
    rows = task.rows("train", Options(train_weathers=1))
    at = next(row for row in rows if row.metadata["timestamp"].endswith("T11:00:00"))
    system, user = at.prompt
    assert (system.role, user.role) == ("system", "user")
    text = user.content
    assert f"Energy in the storage: {at.metadata['energy_kwh']:.1f} kWh" in text
    assert "- 10:00 past\n- 11:00 load " in text
    assert text.count("<- now") == 1
    assert text.count(" kg/kWh") == 7 + 2
    assert "11:00" in text.splitlines()[-1]
    other = next(row for row in rows if row.metadata["timestamp"].endswith("T12:00:00"))
    assert other.prompt != at.prompt


def test_a_short_prompt_sums_up_what_is_ahead() -> None:
    [full, short] = (task.rows("train", Options(train_weathers=1, prompt=style)) for style in ("full", "short"))
    assert [values_of(row) for row in full] == [values_of(row) for row in short]
    assert len({row.prompt for row in short}) == 30
    [turn] = short[3].prompt
    assert turn.content.startswith("Hour 11, day 1 of 3. CO2 0.")
    assert f"Stored {short[3].metadata['energy_kwh']:.0f} kWh, needed " in turn.content
    loads = [float(line.split()[3]) for line in full[3].prompt[1].content.splitlines() if ":00 load " in line]
    total = float(turn.content.split(", needed ")[1].split(",")[0])
    assert total == pytest.approx(sum(loads), abs=1)


def test_recipes_name_options_that_there_are() -> None:
    for path in sorted((ROOT / "tasks" / "tes" / "recipes").glob("*.toml")):
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        assert recipe["task"]["name"] == "tes"
        Options.model_validate(recipe["task"]["options"])
        for reward in recipe.get("rewards", []):
            RewardConfig.model_validate(reward)


def test_reward_and_metrics_are_by_the_values_of_the_actions() -> None:
    row = task.rows("train", Options(train_weathers=1))[3]
    values = values_of(row)
    completions = ["[0]", "…\n[1]", "[2]", "So [3]", "[4]", "off", f"[{row.expected}]"]
    rewards = task.reward(completions, [row] * 7)
    assert rewards[:4] == list(boltzmann(values, 0.05))
    assert rewards[4:6] == [None, None]
    pack = load_pack(str(ROOT / "tasks" / "tes"))
    scored = pack_scores(pack, [(row, [text]) for text in completions])["measures"]
    assert (scored["parse_rate"]["count"], scored["parse_rate"]["n"]) == (5, 7)
    assert scored["accuracy"]["value"] == 2 / 7
    assert scored["mean_regret"]["value"] == pytest.approx(sum(max(values) - value for value in values) / 5)
    assert pack_scores(pack, [(row, ["x"])])["measures"]["mean_regret"]["value"] is None


def test_the_packs_reward_in_training_is_the_one_by_value() -> None:
    pack = load_pack(str(ROOT / "tasks" / "tes"), {"train_weathers": 1})
    rows = pack.rows("train")[:4]
    settings = [RewardConfig(), RewardConfig(kind="boltzmann", weight=2.0), RewardConfig(kind="accuracy", weight=0.0)]
    with Rewards(settings, pack) as rewards:
        found = rewards(["[0]", "[1]", rows[2].reference, "?"], rows)
    assert found.columns["task"] == found.columns["boltzmann"]
    assert found.columns["accuracy"][2] == 1.0
    assert found.total[3] is None
    assert found.total[0] == pytest.approx(3 * boltzmann(values_of(rows[0]), 0.05)[0])


def test_a_value_file_comes_back_as_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "q.csv"
    arguments = ["data", "tes-q", "--generate", "2", "--episodes", "2", "--prompt", "short", "--out", str(out)]
    assert run_command(_main, arguments) == 0
    assert "120 states of 2 weathers; best action 0: " in capsys.readouterr().out
    made = task.rows("train", Options(train_weathers=2, episodes=2, prompt="short"))
    read = task.rows("train", Options(values=out))
    assert [(row.id, row.prompt, row.expected, row.group) for row in read] == [
        (row.id, row.prompt, row.expected, row.group) for row in made
    ]
    assert [values_of(row) for row in read] == [values_of(row) for row in made]
    assert run_command(_main, ["reward", "boltzmann", str(out), "--tau", "0.05", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["actions"], sum(found["best_action_counts"].values())) == (120, 4, 120)
    before = out.read_bytes()
    assert run_command(_main, arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_the_old_weeks_make_a_value_file_and_the_old_value_files_make_rows(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weeks = sorted(str(path) for path in (shared / "tes-weather").glob("*.csv"))
    out = tmp_path / "q.csv"
    assert run_command(_main, ["data", "tes-q", *weeks, "--out", str(out)]) == 0
    assert len(value_rows(out)) == 210
    old = sorted((shared / "tes-q-dataset").glob("*0505*_harmony.csv"))[0]
    rows = task.rows("train", Options(values=old, heldout_weathers=1))
    assert len(rows) == 30
    assert rows[0].prompt[-1].role == "user"
    assert task.reward([rows[0].reference], rows[:1])[0] == pytest.approx(
        float(rows[0].metadata[f"reward_action_{rows[0].expected}"]), abs=1e-9
    )
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "q.csv"], "name weather files, or how many weathers to make"),
        (["week.csv", "--generate", "2", "--out", "q.csv"], "one of the two"),
        (["week.csv", "--out", "q.csv"], "the weather cannot be read: week.csv: No such file"),
        (["--generate", "1", "--out", "no/q.csv"], "there is no folder no"),
        (["--generate", "1", "--out", "q.csv", "--initial-kwh", "400"], "expected 0 to 300"),
        (["--generate", "1", "--out", "q.csv", "--episodes", "0"], "expected at least 1"),
    ],
)
def test_a_mistake_in_the_command_is_told_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.chdir(tmp_path)
    assert run_command(_main, ["data", "tes-q", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"values": "a.csv", "weather": ["b.csv"]}, "both say what the rows of train are"),
        ({"weather": ["b.csv"], "train_weathers": 3}, "train_weathers has no effect beside weather"),
        ({"values": "a.csv", "heldout_values": "b.csv", "episodes": 2}, "episodes has no effect"),
        ({"initial_kwh": 301}, "less than or equal to 300"),
    ],
)
def test_options_without_effect_or_sense_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Options.model_validate(options)


def test_a_file_in_both_splits_is_refused() -> None:
    with pytest.raises(UserError, match="is in both splits"):
        task.rows("train", Options(values=Path("a.csv"), heldout_values=Path("./a.csv")))


def test_a_packs_command_is_found_and_one_that_is_not_there_is_told(pack_folder: Path) -> None:
    assert pack_commands()["tes-q"] == ROOT / "tasks" / "tes"
    description = pack_folder / "task.toml"
    description.write_text(description.read_text() + '[commands]\nshout-all = "nowhere:run"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"commands\.shout-all: there is no function 'run'"):
        load_command("shout-all", pack_folder)


def test_the_pack_is_described_without_numpy() -> None:
    code = (
        "import sys\nfrom tanren.common.task_packs import load_pack\n"
        f"load_pack({str(ROOT / 'tasks' / 'tes')!r})\nsys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
