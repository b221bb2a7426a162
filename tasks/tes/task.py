"""Task pack `tes`: control of a thermal energy storage (README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tanren.common.actions import judge_action
from tanren.common.errors import UserError
from tanren.common.task_contract import Parsed, Ratio, Row, Split
from tanren.common.values import best_actions, boltzmann, regret, value_rows, values_of

from .options import Options

__all__ = ["Options", "measures", "parse", "reward", "rows"]

TAU = 0.05
"""Of the reward. Between the best and the second-best action of a state lie 0.02 to 0.06 in the middle."""


def rows(split: Split, options: Options) -> list[Row]:
    """Return a row for each state of a split, the same for the same options.

    Raises UserError for a file with a fault, and for one that is in both splits.
    """
    _check_apart(options)
    values = options.values if split == "train" else options.heldout_values
    if values is not None:
        from .states import row_of

        return [row_of(row.id, row.prompt, row.expected, dict(row.metadata)) for row in value_rows(values)]
    from .generate import generated
    from .states import visited
    from .weather import read_weather

    files = options.weather if split == "train" else options.heldout_weather
    count = options.train_weathers if split == "train" else options.heldout_weathers
    weathers = [read_weather(path) for path in files] or list(islice(generated(split, options.seed), count))
    return [
        state.row()
        for weather in weathers
        for state in visited(weather, options.initial_kwh, options.episodes, options.seed, options.prompt)
    ]


def parse(completion: str, row: Row) -> Parsed:
    """Judge one completion: the last `[action]` of its answer's last line, correct if no action is better."""
    values = values_of(row)
    return judge_action(completion, len(values), best_actions(values))


def reward(completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
    """Return softmax(values / TAU) at the action; None where there is no action."""
    rewards: list[float | None] = []
    for completion, row in zip(completions, rows, strict=True):
        parsed = parse(completion, row)
        rewards.append(boltzmann(values_of(row), TAU)[parsed.value] if parsed.valid else None)
    return rewards


def measures(completion: str, row: Row) -> dict[str, Ratio]:
    """Return what a completion adds to each metric.

    `accuracy` is the share of all completions that chose a best action, those without an action included; `mean_regret` (in
    the unit of the values) is over those with one.
    """
    parsed = parse(completion, row)
    lost = regret(values_of(row), parsed.value) if parsed.valid else 0.0
    return {
        "parse_rate": Ratio(parsed.valid, 1),
        "accuracy": Ratio(parsed.correct, 1),
        "mean_regret": Ratio(lost, parsed.valid),
    }


def _check_apart(options: Options) -> None:
    def files(*paths: Path | None) -> set[Path]:
        return {path.resolve() for path in paths if path is not None}

    both = files(*options.weather, options.values) & files(*options.heldout_weather, options.heldout_values)
    if both:
        raise UserError(f"tes: {min(both)} is in both splits; what is judged must not have been trained on")
