"""What a step is made of: completions with their rewards and advantages, before anything is learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tanren.common.task_contract import Parsed
from tanren.grpo.advantages import Advantages
from tanren.grpo.engine import Completion
from tanren.grpo.prompts import Prompt


@dataclass(frozen=True)
class Judged:
    """One completion with what was found of it."""

    prompt: Prompt
    completion: Completion
    text: str
    parsed: Parsed
    columns: Mapping[str, float | None]
    """What each reward gave, by its name, before weights."""
    reward: float | None
    """The sum that counts; None: the completion is excluded."""
    excluded_why: str | None
    group: int
    """Which of the step's prompts it answers."""
    advantage: float | None

    @property
    def tokens(self) -> int:
        """Of the prompt and the completion."""
        return len(self.prompt.token_ids) + len(self.completion.token_ids)


@dataclass(frozen=True)
class Rollout:
    """The completions of a step, those of a group side by side."""

    completions: Sequence[Judged]
    advantages: Advantages
    drawn: int
    """Prompts that were drawn, those that a refill replaced included."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By what it was spent on: generate, sync, reward."""

    @property
    def included(self) -> list[Judged]:
        """Those that have a reward."""
        return [one for one in self.completions if one.reward is not None]

    def shares(self, updates: int) -> list[list[Judged]]:
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
        known = [one for one in every if one.prompt.row.expected is not None]
        lengths = [len(one.completion.token_ids) for one in every]
        found: dict[str, Any] = {
            "reward": _mean(rewards),
            "parse_rate": _mean([float(one.parsed.valid) for one in every]),
            "accuracy": _mean([float(one.parsed.correct) for one in known]),
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
        }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
