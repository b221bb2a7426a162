"""A reward for GRPO that leaves alone whether somebody is to be extracted (README.md, "What the quickstart showed")."""

from __future__ import annotations

from collections.abc import Sequence

from tanren.common.task_contract import Row

from .judging import judge, reward_of


def fields(completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
    """Return the pack's reward where article and answer both have somebody, or the answer cannot be read; else None.

    What is left of a group begins alike, up to the first person, and its advantages add up to 0: so nothing is learned there of
    the choice between somebody and nobody, which all articles share and which a few steps would settle for all of them.
    """
    rewards: list[float | None] = []
    for completion, row in zip(completions, rows, strict=True):
        judgement = judge(completion, row)
        gold, found = judgement.offenders()
        comparable = gold > 0 and (found > 0 or judgement.found is None)
        rewards.append(reward_of(completion, row) if comparable else None)
    return rewards
