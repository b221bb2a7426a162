"""The closed loop: every week stands at the same decision; what is decided acts on the plant, and is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tanren.common.control_contract import Episode, Week


@dataclass(frozen=True)
class Decision:
    """What was decided for one hour."""

    action: int | None
    """None: there was none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, for the log."""


class Controller(Protocol):
    """Decides."""

    def decide(self, weeks: Sequence[Week], episodes: Sequence[Episode]) -> list[Decision]:
        """Return a decision for each episode."""


class NamedPolicy:
    """A policy that needs no model."""

    def __init__(self, name: str) -> None:
        """Take one of a week's `policies`."""
        self._name = name

    def decide(self, weeks: Sequence[Week], episodes: Sequence[Episode]) -> list[Decision]:
        """Return what the policy does."""
        return [Decision(week.action(self._name, one)) for week, one in zip(weeks, episodes, strict=True)]


def run_loop(
    weeks: Sequence[Week], controller: Controller, on_decision: Callable[[Mapping[str, Any]], None] | None = None
) -> list[Episode]:
    """Return a finished episode of each week. `on_decision` is given each entry of the decision log as it comes.

    The weeks go on together, so that a model is asked for all of them at once.
    """
    episodes = [week.begin() for week in weeks]
    number = 0
    while waiting := [index for index, episode in enumerate(episodes) if not episode.done]:
        number += 1
        own = [weeks[index] for index in waiting]
        decisions = controller.decide(own, [episodes[index] for index in waiting])
        for index, week, decision in zip(waiting, own, decisions, strict=True):
            before = {"week": week.name, "decision": number} | dict(episodes[index].state())
            happened = episodes[index].decide(decision.action)
            if on_decision is not None:
                on_decision(before | {"action": decision.action} | dict(decision.details) | dict(happened))
    return episodes
