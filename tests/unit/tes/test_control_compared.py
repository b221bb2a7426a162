"""`evaluate compare` of controlled runs: the same weeks, paired; what cannot be compared is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tanren.common.command import run_command
from tanren.evaluate.cli import _main

from .conftest import Control


def test_runs_are_paired_by_week_and_stand_by_their_penalised_cost(
    control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    weeks = {
        policy: control("--generate", "6", "--policy", policy, "--run-dir", policy)["weeks"]
        for policy in ("always-2", "greedy-rule", "always-1")
    }
    assert run_command(_main, ["compare", "always-2", "greedy-rule", "always-1", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    costs = {policy: np.array([week["penalised_kg_co2"] for week in own]) for policy, own in weeks.items()}
    assert found["order"] == sorted(costs, key=lambda policy: costs[policy].mean())
    difference = found["differences"]["greedy-rule"]
    assert difference["value"] == pytest.approx((costs["greedy-rule"] - costs["always-2"]).mean())
    assert difference["low"] < difference["value"] < difference["high"] < 0
    assert "whoever takes the best of these 3 has chosen it on the weeks" in told.err
    assert run_command(_main, ["compare", "always-2", "greedy-rule"]) == 0
    table = capsys.readouterr().out
    assert table.index("optimal") < table.index("> greedy-rule") < table.index("> always-2") < table.index("always-0")
    assert "6 weeks: few for a bootstrap" in table


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["one", "other"], "have not controlled the same weeks: only one has heldout-"),
        (["one", "full"], "is not the same in both (the baselines come to something else)"),
        (["one", "open"], "open: this run is not finished; go on with it: tanren resume open"),
        (["one", "one"], "two runs are named one"),
        (["one"], "1 run to compare; name at least two"),
        (["one", "elsewhere"], "one is a run of evaluate control, and elsewhere is none"),
        (["one", "full", "--selection", "0.3"], "--selection has no effect on runs of evaluate control"),
    ],
)
def test_what_is_not_the_same_is_not_compared(
    control: Control, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    control("--generate", "1", "--policy", "always-1", "--run-dir", "one")
    if "other" in arguments:
        control("--generate", "1", "--seed", "5", "--policy", "always-1", "--run-dir", "other")
    if "full" in arguments:
        control("--generate", "1", "--initial-kwh", "300", "--policy", "always-1", "--run-dir", "full")
    if "open" in arguments:
        control("--generate", "1", "--policy", "always-2", "--run-dir", "open")
        Path("open/summary.json").unlink()
    assert run_command(_main, ["compare", *arguments]) == 2
    assert told in capsys.readouterr().err
