"""The closed loop: every week stands at the same decision; what is decided acts on the plant, and is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from tanren.common.control_contract import Episode, Week

from ._log import DecisionLog


@dataclass(frozen=True)
class Decision:
    """What was decided for one hour."""

    action: int | None
    """None: there was none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, for the log."""


class Controller(Protocol):
    """Decides."""

    def decide(
        self, number: int, weeks: Sequence[Week], episodes: Sequence[Episode], say: Callable[[str], None]
    ) -> list[Decision]:
        """Return decision `number` (from 1) of each episode, and tell `say` meanwhile what it is at."""


class NamedPolicy:
    """A policy that needs no model."""

    def __init__(self, name: str) -> None:
        """Take one of a week's `policies`."""
        self._name = name

    def decide(
        self, number: int, weeks: Sequence[Week], episodes: Sequence[Episode], say: Callable[[str], None]
    ) -> list[Decision]:
        """Return what the policy does."""
        del number, say
        return [Decision(week.action(self._name, one)) for week, one in zip(weeks, episodes, strict=True)]


def run_policy(weeks: Sequence[Week], name: str) -> list[Episode]:
    """Return a finished episode of each week under a policy that needs no model."""
    episodes = [week.begin() for week in weeks]
    for week, episode in zip(weeks, episodes, strict=True):
        while not episode.done:
            episode.decide(week.action(name, episode))
    return episodes


def run_loop(
    weeks: Sequence[Week],
    controller: Controller | None,
    log: DecisionLog,
    on_decision: Callable[[int], None],
    say: Callable[[int, str], None],
) -> list[Episode]:
    """Return a finished episode of each week, with every decision in `log`.

    `on_decision` hears the number (from 1) of each that was made now, `say` what the controller is at while it decides.

    The weeks go on together, so that a model is asked for all of them at once. A decision that the log has acts again as it
    did; where it has all of them, no controller is needed. Of an hour that it has in part all weeks are asked again, in
    the batch that they were asked in, and those that were there stay.
    """
    episodes = [week.begin() for week in weeks]
    number = 0
    while waiting := [index for index, episode in enumerate(episodes) if not episode.done]:
        number += 1
        own = [weeks[index] for index in waiting]
        made = [log.made(week, number) for week in own]
        decisions: list[Decision | None] = [None] * len(own)
        if None in made:
            assert controller is not None, "somebody decides what is not decided yet"
            standing = [episodes[index] for index in waiting]
            decisions = [*controller.decide(number, own, standing, partial(say, number))]
        entries = []
        for index, week, before, decision in zip(waiting, own, made, decisions, strict=True):
            episode = episodes[index]
            stands = {"week": week.name, "decision": number} | dict(episode.state())
            if before is not None:
                prompt = [asdict(message) for message in episode.row().prompt] if "prompt" in before else None
                log.check(stands | dict(episode.decide(before["action"])), prompt)
                continue
            assert decision is not None
            happened = episode.decide(decision.action)
            entries.append(stands | {"action": decision.action} | dict(decision.details) | dict(happened))
        if entries:
            log.append(entries)
            on_decision(number)
    return episodes
