"""The reward that leaves alone whether somebody is to be extracted."""

from __future__ import annotations

from tanren.grpo.rewards import RewardConfig, Rewards
from tasks.extraction import task
from tasks.extraction.rewards import fields

from .articles import ANA, BEN, NOTHING, answer, gold, person, row

SOMEBODY, NOBODY = row(gold(ANA, BEN)), row(gold())
NAMED = [answer(gold(ANA, BEN)), answer(gold(ANA)), answer(gold(person("Ivo Lang"))), '{"persons": [{"name": "An', "{}"]


def test_an_answer_with_somebody_has_the_reward_of_the_pack_and_so_has_one_that_cannot_be_read() -> None:
    found = fields(NAMED, [SOMEBODY] * len(NAMED))
    assert found == task.reward(NAMED, [SOMEBODY] * len(NAMED))
    assert found[0] == 1.0
    assert found[3] == 0.0


def test_nobody_on_either_side_is_excluded_and_not_a_zero() -> None:
    innocent = answer(gold(ANA | {"is_offender": False}))
    assert fields([answer(NOTHING), innocent], [SOMEBODY] * 2) == [None, None]
    assert fields([*NAMED, answer(NOTHING)], [NOBODY] * 6) == [None] * 6


def test_a_recipe_finds_it_by_its_name() -> None:
    setting = RewardConfig(kind="function", function="tasks.extraction.rewards:fields")
    with Rewards([setting], None) as rewards:
        scored = rewards([answer(gold(ANA, BEN)), answer(NOTHING)], [SOMEBODY] * 2)
    assert list(scored.total) == [1.0, None]
