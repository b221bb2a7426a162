"""Metrics, mistakes and rewards: every number here was worked out by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from tanren.common.errors import UserError
from tanren.common.task_contract import Verdict
from tasks.extraction import task

from .articles import ANA, ARTICLE_JA, BEN, KEYS, NOTHING, answer, gold, person, row

MAYOR = person("Ivo Lang")


def _kinds(completion: str, expected: dict[str, Any], article: str | None = None) -> list[tuple[str, str]]:
    item = row(expected) if article is None else row(expected, article)
    return [(mistake.kind, mistake.where) for mistake in task.mistakes(completion, item)]


def test_metrics_of_six_answers_are_those_counted_by_hand() -> None:
    answers = [
        (gold(ANA, BEN), answer(gold(ANA, BEN))),  # exact
        (gold(ANA), answer(gold(ANA, MAYOR))),  # one name too many
        (gold(ANA), answer(NOTHING)),  # missed
        (NOTHING, answer(gold(BEN))),  # taken for an offender
        (NOTHING, answer(NOTHING)),  # rightly nothing
        (gold(ANA), "Ana Reyes is said to be one."),  # no JSON
    ]
    sums: dict[str, list[float]] = {}
    for expected, completion in answers:
        for name, ratio in task.measures(completion, row(expected)).items():
            total = sums.setdefault(name, [0, 0])
            total[0] += ratio.numerator
            total[1] += ratio.denominator
    found = {name: Fraction(int(above), int(below)) for name, (above, below) in sums.items()}
    assert {name: value for name, value in found.items() if "/" not in name} == {
        "json_parse_rate": Fraction(5, 6),
        "schema_ok_rate": Fraction(5, 6),
        "offender_presence_precision": Fraction(2, 3),
        "offender_presence_recall": Fraction(2, 4),
        "offender_presence_f1": Fraction(4, 7),
        "offender_name_set_precision": Fraction(3, 5),
        "offender_name_set_recall": Fraction(3, 5),
        "offender_name_set_f1": Fraction(6, 10),
        "fp_rate_on_negative": Fraction(1, 2),
        "avg_gold_offender_count": Fraction(5, 6),
        "avg_pred_offender_count": Fraction(5, 6),
        "all_fields_exact_match_rate": Fraction(2, 6),
    }
    assert found["field_exact_match_rate/person_name"] == Fraction(2, 6)
    assert found["field_exact_match_rate/occured_locations"] == Fraction(3, 6)
    # Without the fifth, in which gold and answer are both blank.
    assert found["stated_match_rate/occured_locations"] == Fraction(2, 5)
    # Ben has no affiliation: of the fourth, gold and answer are both blank as well.
    assert found["stated_match_rate/person_belongs_company"] == Fraction(1, 4)
    assert len(found) == 12 + 8 + 8


def test_a_metric_without_anything_to_count_has_no_denominator() -> None:
    found = task.measures(answer(NOTHING), row(NOTHING))
    for name in ("offender_presence_f1", "offender_name_set_f1", "stated_match_rate/person_name"):
        assert (found[name].numerator, found[name].denominator) == (0, 0)
    assert found["all_fields_exact_match_rate"].numerator == 1


@pytest.mark.parametrize(
    ("changed", "correct"),
    [
        ({"age": "34"}, True),  # ages are numbers
        ({"age": "３４"}, True),
        ({"age": 34.0}, True),
        ({"age": "34 years"}, False),
        ({"age": 35}, False),
        ({"age": None}, False),
        ({"position": " clerk "}, True),  # space around a value does not count
        ({"position": "ｃｌｅｒｋ"}, False),  # full-width letters are not what the gold value has
        ({"name": "Ms. Ana Reyes"}, False),  # an honorific is no part of a name
        ({"is_real": False, "category": "其他"}, True),  # not compared
        ({"is_offender": "true"}, False),  # no boolean: no offender
        ({"act": None}, False),  # null is "": without an act no offender
    ],
)
def test_fields_are_exact_but_for_ages_and_blanks(changed: dict[str, Any], correct: bool) -> None:
    assert task.parse(answer(gold(ANA | changed)), row(gold(ANA))).correct is correct


def test_null_missing_and_empty_are_one_blank() -> None:
    for blank in ({"position": ""}, {"position": None}):
        assert task.parse(answer(gold(BEN | blank)), row(gold(BEN))).correct
    without = {key: value for key, value in BEN.items() if key != "position"}
    assert task.parse(answer(gold(without)), row(gold(BEN))).correct


def test_fields_that_say_nothing_are_equal_however_many_persons_leave_them_out() -> None:
    one, two = {"name": "Ana Reyes", "age": "", "act": "theft"}, {"name": "Ben Crane", "age": None, "act": "theft"}
    nowhere = {"persons": [one], "occured_locations": [], "police_departments": []}
    short = row(nowhere, keys=("name", "age", "act"))
    assert task.parse(answer(nowhere, occured_locations=["", " "]), short).correct
    found = task.measures(answer(nowhere, persons=[one, two]), short)
    assert found["field_exact_match_rate/person_age_at_published"].numerator == 1
    assert found["stated_match_rate/person_age_at_published"].denominator == 0
    assert found["field_exact_match_rate/person_name"].numerator == 0


def test_the_order_of_persons_counts_in_fields_and_not_in_the_set_of_names() -> None:
    turned = answer(gold(BEN, ANA))
    found = task.measures(turned, row(gold(ANA, BEN)))
    assert found["offender_name_set_f1"].numerator == found["offender_name_set_f1"].denominator == 4
    assert found["field_exact_match_rate/person_name"].numerator == 0
    assert ("other", "person_name") in _kinds(turned, gold(ANA, BEN))


def test_a_repeated_person_is_one_name_and_a_wrong_field() -> None:
    twice = answer(gold(ANA, ANA))
    found = task.measures(twice, row(gold(ANA)))
    assert (found["offender_name_set_f1"].numerator, found["offender_name_set_f1"].denominator) == (2, 2)
    assert found["field_exact_match_rate/person_name"].numerator == 0
    assert ("other", "person_name") in _kinds(twice, gold(ANA))


def test_without_an_offender_places_and_police_do_not_count() -> None:
    witness = person("Ivo Lang", is_offender=False)
    only_places = answer(gold(witness))
    assert task.parse(only_places, row(NOTHING)).correct
    assert task.reward([only_places], [row(NOTHING)]) == [1.0]
    assert _kinds(only_places, gold(ANA))[-2:] == [("miss", "occured_locations"), ("miss", "police_departments")]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"name": ""}, "miss"),
        ({"name": "Ivo Lang"}, "span_mismatch"),  # somebody else of the article
        ({"name": "Reyes"}, "span_mismatch"),
        ({"name": "Ana  Reyes"}, "span_mismatch"),  # in the article but for a space
        ({"name": "Ａｎａ Ｒｅｙｅｓ"}, "span_mismatch"),  # in the article but for full-width letters
        ({"name": "Ms. Ana Reyes"}, "span_mismatch"),  # in the article but for the honorific
        ({"name": "John Smith"}, "hallucination"),
    ],
)
def test_mistakes_are_told_apart(changed: dict[str, Any], kind: str) -> None:
    assert _kinds(answer(gold(ANA | changed)), gold(ANA)) == [(kind, "person_name")]


def test_mistakes_of_a_japanese_answer_are_told_apart() -> None:
    suspect = person("青柳明", "窃盗", age=34, position="会社員", affiliation="アルダー食品", address="")
    expected = {"persons": [suspect], "occured_locations": ["霧里市"], "police_departments": ["霧里署"]}
    for name, kind in (
        ("青柳明容疑者", "span_mismatch"),  # as the article has it, with the honorific
        ("青柳 明", "span_mismatch"),
        ("青柳明さん", "span_mismatch"),  # an honorific that the article does not have
        ("泉谷", "span_mismatch"),
        ("黒川誠", "hallucination"),
    ):
        given = answer(expected | {"persons": [suspect | {"name": name}]})
        assert _kinds(given, expected, ARTICLE_JA) == [(kind, "person_name")], name
    half_width = answer(expected | {"persons": [suspect | {"affiliation": "ｱﾙﾀﾞｰ食品"}]})
    assert _kinds(half_width, expected, ARTICLE_JA) == [("span_mismatch", "person_belongs_company")]


def test_an_answer_that_cannot_be_read_is_one_other_mistake() -> None:
    for completion in ("no", '{"persons": []}', "{,}"):
        assert _kinds(completion, gold(ANA)) == [("other", "answer")]


def test_rewards_rise_from_form_to_content() -> None:
    # Eight fields of Ana's are stated; with another name seven are right.
    cases = [
        ("no JSON", 0.0),
        ('{"persons": []}', 0.1),
        (answer(NOTHING), 0.2),
        (answer(gold(ANA | {"name": "Ivo Lang"})), 0.2 + 0.8 * 7 / 8),
        (answer(gold(ANA)), 1.0),
    ]
    rewards = task.reward([completion for completion, _ in cases], [row(gold(ANA))] * len(cases))
    assert rewards == pytest.approx([value for _, value in cases])
    assert task.reward([answer(gold(ANA))], [row(NOTHING)]) == pytest.approx([0.2])


def test_only_fields_that_were_asked_for_are_compared() -> None:
    short = row(gold({"name": "Ana Reyes", "age": 34, "act": "theft"}), keys=("name", "age", "act"))
    given = answer(gold({"name": "Ana Reyes", "age": "34", "act": "theft", "position": "mayor"}))
    assert task.parse(given, short).correct  # is_offender was not asked for: whoever is listed is one
    fields = [name for name in task.measures(given, short) if name.startswith("field_exact_match_rate/")]
    assert len(fields) == 5


def test_the_first_mistake_is_told_with_its_kind() -> None:
    parsed = task.parse(answer(gold(ANA | {"name": "Ivo Lang"})), row(gold(ANA)))
    assert parsed.verdict is Verdict.WRONG
    assert parsed.error == 'span_mismatch: person_name: found "Ivo Lang", expected "Ana Reyes"'


def test_a_row_that_cannot_be_judged_is_told() -> None:
    with pytest.raises(UserError, match=r"row r: found no metadata.person_keys"):
        task.parse("{}", row(NOTHING, keys=()))
    with pytest.raises(UserError, match="expected an object of persons, places and police departments"):
        task.parse("{}", row({"persons": "Ana"}, keys=KEYS))
