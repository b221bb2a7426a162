"""`evaluate control` through its command: the old references, a model that decides, decisions that fail, and mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tanren.common.command import run_command
from tanren.evaluate.cli import _main
from tanren.evaluate.control import interval_of_mean, interval_of_share, majority
from tasks.tes.control import weeks
from tasks.tes.generate import generated
from tasks.tes.plant import ACTIONS
from tasks.tes.prompts import build_prompt

from .conftest import ROOT, Control, log_of
from .test_tes_plant import OLD, best_by_recursion

WEEK = ["--generate", "1", "--run-dir", "run"]


@pytest.fixture(scope="module")
def always_one(scripted: Callable[[str], Path]) -> Path:
    """Return the folder of a model that answers [1] whatever it is asked."""
    return scripted("[1]")


def test_the_old_weeks_come_to_the_old_optima_and_constant_policies(control: Control, shared: Path) -> None:
    files = [str(next((shared / "tes-weather").glob(f"*_3day_{week}_to_*.csv"))) for week in OLD]
    found = control(*files, "--policy", "optimal")
    for (constant, unserved, best), week in zip(OLD.values(), found["weeks"], strict=True):
        assert week["net_kg_co2"] == week["optimal_net_kg_co2"] == pytest.approx(best, abs=0.05)
        assert week["share_of_optimum"] == 1
        for action, net in enumerate(constant):
            assert week["baselines"][f"always-{action}"]["net_kg_co2"] == pytest.approx(net, abs=5e-4)
        for action, kwh in enumerate(unserved):
            assert week["baselines"][f"always-{action}"]["unserved_kwh"] == pytest.approx(kwh, abs=5e-3)
    summary = found["summary"]
    assert summary["weeks"] == 7
    assert (
        summary["penalised_kg_co2"]["low"] < summary["penalised_kg_co2"]["value"] < summary["penalised_kg_co2"]["high"]
    )
    assert summary["penalised_less_baseline"]["greedy-rule"]["high"] < 0
    assert "few for a bootstrap" in summary["note"]


def test_one_week_of_a_constant_policy_is_one_object(control: Control, shared: Path) -> None:
    [file] = (shared / "tes-weather").glob("*_3day_0505_*.csv")
    found = control(str(file), "--policy", "always-1")
    assert found["net_kg_co2"] == pytest.approx(72.9, abs=5e-4)
    assert found["unserved_kwh"] == pytest.approx(58.39, abs=5e-3)
    assert found["penalised_kg_co2"] == pytest.approx(found["net_kg_co2"] + 10 * found["unserved_kwh"])
    assert found["actions"] == [1] * 30
    full = control(str(file), "--policy", "always-0", "--initial-kwh", "300", "--run-dir", "full")
    assert full["unserved_kwh"] == pytest.approx(1058.39 - 150, abs=5e-3)


def test_a_plant_that_is_off_emits_nothing_and_comes_last(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    found = control(*WEEK, "--policy", "always-0")
    assert (found["net_kg_co2"], found["share_of_optimum"] < 0.02) == (0, True)
    assert run_command(_main, ["control", "--generate", "5", "--policy", "always-0"]) == 0
    table = capsys.readouterr().out
    order = re.findall(r"^│ [> ] ([\w-]+)", table, re.MULTILINE)
    assert (order[0], order[-1]) == ("optimal", "always-0")
    assert "5 weeks: few for a bootstrap" in table


def test_the_greedy_rule_serves_each_hour_with_the_least_output(control: Control) -> None:
    control(*WEEK, "--policy", "greedy-rule")
    for entry in log_of(Path("run")):
        missing = max(0, entry["load_kw"] - entry["energy_kwh"])
        assert entry["action"] == next((one for one in range(ACTIONS) if 100 * one / 3 >= missing - 1e-9), ACTIONS - 1)


def test_the_run_directory_has_log_plots_and_a_report_without_network(control: Control) -> None:
    found = control("--generate", "2", "--seed", "3", "--policy", "optimal", "--run-dir", "run")
    names = [week["week"] for week in found["weeks"]]
    assert found["summary"]["net_kg_co2"]["low"] is None
    assert "too few for an interval" in found["summary"]["note"]
    log = log_of(Path("run"))
    assert len(log) == 60
    assert all(entry["action"] == entry["best_actions"][0] for entry in log)
    weathers = {weather.name: weather for weather in (next(generated("heldout", 3)),)}
    [first] = [week for week in found["weeks"] if week["week"] in weathers]
    assert first["optimal_penalised_kg_co2"] == pytest.approx(
        best_by_recursion(weathers[first["week"]], 0, 150.0), abs=1e-5
    )
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert all(name in page for name in names)
    assert "greedy-rule" in page
    assert not re.findall(r"<script|<link|(?:src|href)=\"(?!#)", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    config = Path("run/config.toml").read_text(encoding="utf-8")
    assert "seed = 3  # command line" in config


def test_a_model_decides_by_its_answers_to_the_packs_prompts(control: Control, always_one: Path) -> None:
    from transformers import AutoTokenizer

    from tanren.common.chat import prompt_hash, render_prompt

    found = control(*WEEK, "--policy", str(always_one), "--max-new-tokens", "8")
    assert found["actions"] == [1] * 30
    assert found["penalised_kg_co2"] == found["baselines"]["always-1"]["penalised_kg_co2"]
    assert found["failed_decisions"] == 0
    entry = log_of(Path("run"))[11]
    weather = next(generated("heldout", 0))
    tokenizer = AutoTokenizer.from_pretrained(always_one)
    prompt = render_prompt(tokenizer, build_prompt(weather, entry["hour"], entry["energy_kwh"]))
    assert entry["prompt_hash"] == prompt_hash(prompt)
    [sample] = entry["samples"]
    assert (sample["completion"], sample["action"], sample["finish_reason"]) == ("[1]", 1, "stop")


def test_samples_vote_for_every_decision(control: Control, scripted: Callable[..., Path]) -> None:
    model = str(scripted("[0]", "[2]", "[7]"))
    arguments = [
        "--policy",
        model,
        "--samples",
        "5",
        "--vote",
        "majority",
        "--prompt",
        "short",
        "--max-new-tokens",
        "4",
    ]
    found = control(*WEEK, *arguments, "--temperature", "2", "--top-p", "1")
    log = log_of(Path("run"))
    assert {sample["action"] for entry in log for sample in entry["samples"]} >= {0, 2, None}
    for entry, action in zip(log, found["actions"], strict=True):
        actions = [sample["action"] for sample in entry["samples"] if sample["action"] is not None]
        assert sum(entry["votes"].values()) == len(actions)
        assert entry["action"] == action == min(set(actions), key=lambda one: (-actions.count(one), one), default=None)


def test_a_model_without_an_answer_fails_and_is_no_policy(control: Control, one_thread: None) -> None:
    found = control(*WEEK, "--policy", "builtin:tiny-qwen3", "--prompt", "short", "--max-new-tokens", "3")
    assert (found["failed_decisions"], found["decisions"], found["actions"]) == (30, 30, [None] * 30)
    assert found["penalised_kg_co2"] == found["baselines"]["always-0"]["penalised_kg_co2"]
    assert sum(found["failures"]["reasons"].values()) == 30
    assert "the heat pump stays off" in found["failures"]["no_decision"]
    assert "30 of 30 decisions failed" in found["told"]
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "30 of 30 decisions failed" in page
    assert "the heat pump stays off" in page


@pytest.fixture
def trained(tmp_path: Path, always_one: Path) -> Path:
    """Return a run directory with an adapter (which changes nothing yet) on the model that answers [1]."""
    from tanren.common.adapter import attach_lora, save_adapter
    from tanren.common.chat import template_hash
    from tanren.common.config import LoraConfig, ModelConfig
    from tanren.common.models.device import plan_device
    from tanren.common.models.load import load_model, load_tokenizer
    from tanren.common.models.source import resolve_source
    from tanren.common.run import RunDirectory

    run = RunDirectory(tmp_path / "trained")
    run.path.mkdir()
    source = resolve_source(str(always_one))
    device = plan_device(ModelConfig(device="cpu", dtype="float32"))
    loaded = load_model(source, device)
    model = attach_lora(loaded, LoraConfig(rank=2, alpha=4), 0)
    template = template_hash(load_tokenizer(source))
    save_adapter(
        model, run, source=source, loaded=loaded, parents=(), recipe="r", rank=2, template=template, device=device
    )
    run.config.write_text(
        f'[model]\nname = "{always_one}"\ndtype = "float32"\n[task]\nname = "tes"\n[task.options]\nprompt = "short"\n'
    )
    run.write_json(run.summary, {"status": "done"})
    return run.path


def test_a_run_is_asked_as_it_was_trained_and_refused_with_another_template(
    control: Control, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = control(*WEEK, "--policy", str(trained), "--max-new-tokens", "8")
    assert found["actions"] == [1] * 30
    assert "prompt = short, as it was trained" in found["told"]
    assert [message["role"] for message in log_of(Path("run"))[0]["prompt"]] == [
        "user"
    ]  # the short form has no system turn
    record = trained / "adapter" / "provenance.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values | {"chat_template_hash": "0" * 16}))
    before = sorted(Path().iterdir())
    refused = ["control", "--generate", "1", "--policy", str(trained / "adapter"), "--max-new-tokens", "8"]
    assert run_command(_main, refused) == 2
    assert "was trained with the chat template 0000000000000000" in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before
    assert control(*refused[1:], "--allow-other-template")["actions"] == [1] * 30


@pytest.mark.parametrize(
    ("actions", "action", "counts"),
    [
        ([2, 1, 2], 2, {1: 1, 2: 2}),
        ([3, 0, 0, 3], 0, {0: 2, 3: 2}),
        ([None, 3, None], 3, {3: 1}),
        ([None, None], None, {}),
    ],
)
def test_most_votes_decide_ties_go_to_the_smaller_action_and_no_vote_is_no_decision(
    actions: Sequence[int | None], action: int | None, counts: dict[int, int]
) -> None:
    vote = majority(actions)
    assert (vote.action, vote.counts) == (action, counts)


def test_the_interval_of_a_share_of_ten_weeks_is_the_binomial_one() -> None:
    # 2.5 % and 97.5 % quantiles of a binomial of 10 and 1/2: P(X <= 1) = 0.011, P(X <= 2) = 0.055
    found = interval_of_mean([0.0, 1.0] * 5)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.2, 0.8, 10)


def test_too_few_weeks_have_no_interval_and_a_cost_below_zero_no_share() -> None:
    assert interval_of_mean([1.0, 2.0, 3.0, 6.0]) == type(found := interval_of_mean([3.0]))(3.0, None, None, 4)
    assert (found.value, found.low) == (3.0, None)
    assert interval_of_share([1.0, 1.0], [2.0, 6.0]).value == 0.25
    assert interval_of_share([-1.0], [2.0]).value is None


def test_a_decision_that_is_missing_is_kept_apart_from_the_action_off() -> None:
    [week] = weeks((), generate=1, seed=0, initial_kwh=150.0, prompt="full")
    off, missing = week.begin(), week.begin()
    while not off.done:
        assert off.decide(0) == missing.decide(None)
    assert off.outcome().actions == (0,) * 30
    assert missing.outcome().actions == (None,) * 30
    assert np.isclose(off.outcome().penalised_kg_co2, missing.outcome().penalised_kg_co2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--policy", "optimal"], "name weather files, or how many weathers to make with --generate N"),
        (["none.csv", "--policy", "optimal"], "the weather cannot be read: none.csv: No such file"),
        (
            ["columns.csv", "--policy", "optimal"],
            "columns.csv: found the columns ['datetime', 'load'], expected datetime",
        ),
        ([".", "--policy", "optimal"], ". is a folder; name its files, a week each"),
        (["short.csv", "--policy", "optimal"], "short.csv: found 2 rows, expected 96"),
        (
            ["--generate", "1", "--policy", "optimum"],
            "--policy 'optimum': no such policy, and no folder of that name; did you mean 'optimal'?",
        ),
        (
            ["--generate", "1", "--policy", "always-4"],
            "known policies: always-0, always-1, always-2, always-3, greedy-rule, optimal",
        ),
        (["--generate", "1", "--policy", "builtin:tiny"], "unknown builtin model 'builtin:tiny'"),
        (["--generate", "1", "--policy", "."], "no model in that folder"),
        (
            ["--generate", "1", "--policy", "optimal", "--samples", "3"],
            "--samples: no effect, as optimal asks no model",
        ),
        (["--generate", "1", "--policy", "m", "--samples", "0"], "--samples 0: expected at least 1"),
        (
            ["--generate", "1", "--policy", "m", "--samples", "2", "--temperature", "0"],
            "greedy answers are all the same",
        ),
        (["--generate", "1", "--policy", "m", "--vote", "majority"], "--vote has no effect on one sample"),
        (["--generate", "1", "--policy", "m", "--top-p", "0.9"], "--top-p has no effect on greedy answers"),
        (["--generate", "1", "--policy", "optimal", "--initial-kwh", "301"], "expected 0 to 300"),
        (["--generate", "1", "--policy", "optimal", "--task", "structured"], "it controls nothing"),
        (["--generate", "1", "--policy", "builtin:tiny-qwen3", "--base", "a/b"], "--base has no effect"),
        (["--generate", "1", "--policy", "optimal", "--run-dir", "."], "a run is never overwritten"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.chdir(tmp_path)
    head = "datetime,CO2排出係数[kg-CO2/kWh],冷房需要[kW]\n"
    Path("columns.csv").write_text("datetime,load\n2025-04-07 00:00:00,1\n", encoding="utf-8")
    Path("short.csv").write_text(f"{head}2025-04-07 00:00:00,0.4,0\n2025-04-07 01:00:00,0.4,0\n", encoding="utf-8")
    assert run_command(_main, ["control", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["columns.csv", "short.csv"]
