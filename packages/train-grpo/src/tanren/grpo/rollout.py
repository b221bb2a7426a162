"""What a step is made of: completions with their rewards and advantages, before anything is learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tanren.common.completions import Completion
from tanren.common.task_contract import Verdict
from tanren.common.values import VALUES_KEY, regret, values_of
from tanren.grpo.advantages import Advantages
from tanren.grpo.prompts import Prompt
from tanren.grpo.rewards import Judged


@dataclass(frozen=True)
class Rated:
    """One completion with what was found of it."""

    prompt: Prompt
    completion: Completion
    text: str
    judged: Judged | None
    """What the parser said; None where there is none."""
    columns: Mapping[str, float | None]
    """What each reward gave, by its name, before weights."""
    reward: float | None
    """The sum that counts; None: the completion is excluded."""
    excluded_why: str | None
    group: int
    """Which of the step's prompts it answers."""
    advantage: float | None

    @property
    def regret(self) -> float | None:
        """What its action loses against the best one, where the row has the values of actions and one was parsed."""
        if self.judged is None or self.judged.action is None or VALUES_KEY not in self.prompt.row.metadata:
            return None
        return regret(values_of(self.prompt.row), self.judged.action)

    @property
    def tokens(self) -> int:
        """Of the prompt and the completion."""
        return len(self.prompt.token_ids) + len(self.completion.token_ids)


@dataclass(frozen=True)
class Rollout:
    """The completions of a step, those of a group side by side."""

    completions: Sequence[Rated]
    advantages: Advantages
    drawn: int
    """Prompts that were drawn, those that a refill replaced included."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By what it was spent on: generate, sync, reward."""
    behind: float | None = None
    """Seconds of generating and judging behind the learning from the step before, which nobody waited for (rollout.ahead)."""

    @property
    def included(self) -> list[Rated]:
        """Those that have a reward."""
        return [one for one in self.completions if one.reward is not None]

    def shares(self, updates: int) -> list[list[Rated]]:
        """Return the completions of each optimizer update: whole groups, equally many."""
        groups = 1 + max(one.group for one in self.completions)
        each = groups // updates
        return [
            [one for one in self.included if each * number <= one.group < each * (number + 1)]
            for number in range(updates)
        ]

    def values(self) -> dict[str, Any]:
        """Return the numbers of the step that stand before it learns."""
        every, included = self.completions, self.included
        rewards = [one.reward for one in included if one.reward is not None]
        judged = [(one, one.judged) for one in every if one.judged is not None]
        known = [said for one, said in judged if one.prompt.row.expected is not None]
        lengths = [len(one.completion.token_ids) for one in every]
        found: dict[str, Any] = {
            "reward": _mean(rewards),
            "parse_rate": _mean([float(said.valid) for _, said in judged]),
            "accuracy": _mean([float(said.verdict is Verdict.CORRECT) for said in known]),
            "regret": _mean([lost for one in every if (lost := one.regret) is not None]),
        }
        for name in dict.fromkeys(name for one in every for name in one.columns):
            given = [one.columns.get(name) for one in every]
            found[f"reward/{name}"] = _mean([value for value in given if value is not None])
        return found | {
            "completions": len(every),
            "excluded": len(every) - len(included),
            "truncated_share": _mean([float(one.completion.finish_reason == "length") for one in every]),
            "completion_tokens": sum(lengths),
            "completion_length": _mean([float(length) for length in lengths]),
            "prompts": self.drawn,
            "groups_without_signal": self.advantages.without_signal,
            **({} if self.behind is None else {"seconds_behind": self.behind}),
        }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
