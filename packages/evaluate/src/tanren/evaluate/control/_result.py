"""What controlled weeks came to, as it is recorded: each week beside its optimum and the baselines, and all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tanren.common.control_contract import OPTIMAL, ControlOutcome

from ._bootstrap import Interval, interval_of_mean, interval_of_share, note_on

COSTS = ("net_kg_co2", "unserved_kwh", "penalised_kg_co2")
"""Only together do they say anything: a plant that is off emits nothing."""
_DIGITS = 6
"""Milligrams: below is rounding of thirty hours."""


def week_values(
    week: str, policy: str, outcome: ControlOutcome, baselines: Mapping[str, ControlOutcome]
) -> dict[str, Any]:
    """Return one week's record. `baselines` are all policies that need no model, the optimum among them."""
    best = baselines[OPTIMAL]
    return {
        "week": week,
        "policy": policy,
        **_costs(outcome, best),
        "optimal_net_kg_co2": _round(best.net_kg_co2),
        "optimal_unserved_kwh": _round(best.unserved_kwh),
        "optimal_penalised_kg_co2": _round(best.penalised_kg_co2),
        "decisions": len(outcome.actions),
        "failed_decisions": sum(action is None for action in outcome.actions),
        "actions": list(outcome.actions),
        "baselines": {name: _costs(one, best) for name, one in baselines.items()},
    }


def summary_values(weeks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record of several weeks: means and shares with intervals, and the paired difference to each baseline."""
    optimal = [week["optimal_penalised_kg_co2"] for week in weeks]
    names = list(weeks[0]["baselines"])

    def all_of(costs: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
        found = {key: asdict(interval_of_mean([costs(week)[key] for week in weeks])) for key in COSTS}
        share = _share([costs(week)["penalised_kg_co2"] for week in weeks], optimal)
        return found | {"share_of_optimum": asdict(share)}

    own = [week["penalised_kg_co2"] for week in weeks]
    return {
        "policy": weeks[0]["policy"],
        "weeks": len(weeks),
        **all_of(lambda week: week),
        "decisions": sum(week["decisions"] for week in weeks),
        "failed_decisions": sum(week["failed_decisions"] for week in weeks),
        "baselines": {name: all_of(lambda week, name=name: week["baselines"][name]) for name in names},  # type: ignore[misc]
        "penalised_less_baseline": {
            name: asdict(
                interval_of_mean(
                    [mine - week["baselines"][name]["penalised_kg_co2"] for mine, week in zip(own, weeks, strict=True)]
                )
            )
            for name in names
        },
        "note": note_on(len(weeks)),
    }


def _costs(outcome: ControlOutcome, best: ControlOutcome) -> dict[str, Any]:
    share = _share([outcome.penalised_kg_co2], [best.penalised_kg_co2]).value
    return {key: _round(getattr(outcome, key)) for key in COSTS} | {
        "share_of_optimum": None if share is None else _round(share)
    }


def _share(penalised: Sequence[float], optimal: Sequence[float]) -> Interval:
    """Return the optimum's penalised cost as a share of what was reached: 1 is the optimum."""
    return interval_of_share(optimal, penalised)


def _round(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # no negative zero
