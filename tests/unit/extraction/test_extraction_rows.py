"""Rows: gold values stand in their articles, nothing held out is trained on, negatives are told apart, rows come again."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from tanren.common.errors import UserError
from tanren.common.task_contract import Row, Split
from tasks.extraction import task, words_en, words_ja

_LENGTHS = ("short", "medium", "long")


@cache
def _rows(split: Split, length: str = "medium", count: int = 400) -> list[Row]:
    options = task.Options.model_validate({"length": length, "train_rows": count, "heldout_rows": count})
    return task.rows(split, options)


@pytest.mark.parametrize("length", _LENGTHS)
def test_every_gold_value_stands_in_its_article(length: str) -> None:
    for row in _rows("train", length):
        article = row.metadata["article"]
        assert article in row.prompt[0].content
        assert json.loads(row.reference) == row.expected
        for person in row.expected["persons"]:
            for key in ("name", "age", "position", "affiliation", "address", "act"):
                assert str(person[key]) in article, (row.id, key)
        for place in (*row.expected["occured_locations"], *row.expected["police_departments"]):
            assert place in article, row.id


def test_persons_are_in_the_order_of_the_article() -> None:
    many = [row for row in _rows("train") if len(row.expected["persons"]) > 1]
    assert len(many) > 20
    for row in many:
        places = [row.metadata["article"].index(person["name"]) for person in row.expected["persons"]]
        assert places == sorted(places), row.id


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_negatives_have_their_share_in_each_language_and_prefix(share: float) -> None:
    rows = task.rows("train", task.Options(train_rows=80, negative_share=share))
    for count in (16, 40, 80):
        kinds = Counter((row.metadata["language"], row.metadata["kind"]) for row in rows[:count])
        for language in ("en", "ja"):
            assert abs(kinds[language, "negative"] - share * count / 2) < 1
    assert all((row.expected["persons"] == []) is (row.metadata["kind"] == "negative") for row in rows)


def test_negatives_name_people_and_often_the_police() -> None:
    negatives = [row for row in _rows("train") if row.metadata["kind"] == "negative"]
    assert {row.metadata["story"] for row in negatives} == {
        "wanted", "cleared", "opening", "appointment", "campaign", "award", "sport", "accident",
    }  # fmt: skip
    surnames = (*words_en.WORDS.surnames, *words_ja.WORDS.surnames)
    assert all(any(name in row.metadata["article"] for name in surnames) for row in negatives)
    police = [row for row in negatives if re.search("Police|署", row.metadata["article"])]
    assert len(police) > len(negatives) / 3


def test_no_surname_town_or_company_is_in_both_splits() -> None:
    words = {"en": words_en.WORDS, "ja": words_ja.WORDS}
    for language, lists in words.items():
        towns = [a + b for a in lists.town_beginnings for b in lists.town_ends]
        companies = [
            lists.company_order.format(beginning=a, end=b) for a in lists.company_beginnings for b in lists.company_ends
        ]
        for names in (_by_length(lists.surnames), _by_length(towns), _by_length(companies)):
            found = {split: _found(split, language, names) for split in ("train", "heldout")}
            assert found["train"]
            assert found["heldout"]
            assert not found["train"] & found["heldout"]


def _by_length(names: Any) -> list[str]:
    return sorted(names, key=len, reverse=True)  # so that a name is found before one that is a part of it


def _found(split: Any, language: str, names: list[str]) -> set[str]:
    pattern = re.compile("|".join(map(re.escape, names)))
    articles = [row.metadata["article"] for row in _rows(split) if row.metadata["language"] == language]
    return {name for article in articles for name in pattern.findall(article)}


def test_more_rows_begin_with_the_same_rows_and_another_seed_gives_others() -> None:
    assert task.rows("train", task.Options(train_rows=30)) == _rows("train")[:30]
    other = task.rows("train", task.Options(train_rows=30, seed=1))
    assert not {row.metadata["article"] for row in other} & {row.metadata["article"] for row in _rows("train")}


def test_no_article_is_told_twice() -> None:
    for length in _LENGTHS:
        articles = [row.metadata["article"] for row in _rows("train", length)]
        assert len(set(articles)) == len(articles)


def test_longer_articles_are_longer() -> None:
    means = [sum(len(row.metadata["article"]) for row in _rows("train", length)) for length in _LENGTHS]
    assert means[0] < means[1] < means[2]


def test_the_prompt_asks_for_exactly_the_keys_of_the_answer() -> None:
    for row in task.rows("train", task.Options(train_rows=20, person_keys=("name", "act"))):
        assert all(list(person) == ["name", "act"] for person in row.expected["persons"])
        instruction = row.prompt[0].content.partition("\n\n")[0]
        assert "name" in instruction
        assert "affiliation" not in instruction


def test_texts_are_in_one_form() -> None:
    for row in _rows("train"):
        assert unicodedata.normalize("NFC", row.metadata["article"]) == row.metadata["article"]
        assert "  " not in row.metadata["article"]
        assert "{" not in row.metadata["article"]


def test_options_without_sense_are_refused() -> None:
    for values, told in (
        ({"languages": ["en", "en"]}, "expected each value once"),
        ({"person_keys": ["age", "act"]}, "name missing"),
        ({"negative_share": 1.5}, "less than or equal to 1"),
    ):
        with pytest.raises(ValidationError, match=told):
            task.Options.model_validate(values)


def test_older_records_are_read_and_scored() -> None:
    output = json.dumps({"persons": [], "occured_locations": [], "police_departments": []})
    offender = json.dumps(
        {
            "persons": [{"name": "青柳明", "is_offender": True, "act": "窃盗"}],
            "occured_locations": [],
            "police_departments": [],
        }
    )
    records = [
        {"instruction": "抽出せよ", "input": "記事一", "output": output},
        {"id": "b", "instruction": "", "input": "青柳明容疑者を窃盗の疑いで逮捕", "output": offender},
    ]
    rows = task.read_tasks(records, "val.json")
    assert [(row.id, row.group) for row in rows] == [("000001", "negative"), ("b", "positive")]
    assert rows[0].prompt[0].content == "抽出せよ\n\n記事一"
    assert all(task.parse(row.reference, row).correct for row in rows)
    assert task.mistakes(output, rows[1])[0].kind == "miss"


def test_faulty_older_records_are_told_with_their_numbers() -> None:
    records = [
        "x",
        {"input": "a", "output": "{"},
        {"input": "", "output": "{}"},
        {"input": "a", "output": '{"persons": 1}'},
    ]
    with pytest.raises(UserError) as caught:
        task.read_tasks(records, "val.json")
    told = str(caught.value)
    for part in (
        "val.json: record 1: no object",
        "record 2: output: Expecting",
        "record 3: no article in input",
        "record 4: output: persons is no list",
        'expected {"instruction", "input": the article',
    ):
        assert part in told
