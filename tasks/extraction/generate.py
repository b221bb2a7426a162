"""The stream of rows: which article comes at which place, and what is to be extracted from it."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tanren.common.task_contract import Message, Row, Split

from . import tell_en, tell_ja, words_en, words_ja
from .article import Article, Length
from .lexicon import Lexicon, Person, Words
from .options import Language, Options
from .prompts import build_prompt

Teller = Callable[[Lexicon, Length], Article]
_TELLERS: dict[Language, tuple[Words, Teller, Teller]] = {
    "en": (words_en.WORDS, tell_en.tell_case, tell_en.tell_quiet),
    "ja": (words_ja.WORDS, tell_ja.tell_case, tell_ja.tell_quiet),
}
CATEGORY = "法令違反"
"""Of the categories that the older data has (a breach of law, a person in public office, bankruptcy, others) the one of the articles."""


def stream(split: Split, options: Options) -> Iterator[Row]:
    """Yield rows without end, each of a new article."""
    told: set[str] = set()
    for index in itertools.count():
        turn, place = divmod(index, len(options.languages))
        language = options.languages[place]
        share = options.negative_share
        negative = int((turn + 1) * share + 1e-9) > int(turn * share + 1e-9)
        rng = random.Random(f"extraction/{options.seed}/{split}/{index}")  # noqa: S311 - data, not secrets
        article = _new_article(rng, split, language, options.length, negative=negative, told=told)
        yield row_of(f"{split}-{language}-{index:06d}", article, language, options.person_keys)


def row_of(row_id: str, article: Article, language: Language, keys: Sequence[str]) -> Row:
    """Return the row of an article."""
    expected = {
        "persons": [_answer(person, keys) for person in article.offenders],
        "occured_locations": list(article.locations),
        "police_departments": list(article.police),
    }
    kind = "positive" if article.offenders else "negative"
    return Row(
        id=row_id,
        prompt=(Message("user", build_prompt(language, article.text, keys)),),
        reference=json.dumps(expected, ensure_ascii=False),
        group=f"{language} {kind}",
        expected=expected,
        metadata={
            "kind": kind,
            "language": language,
            "story": article.story,
            "article": article.text,
            "person_keys": list(keys),
        },
    )


def _new_article(
    rng: random.Random, split: Split, language: Language, length: Length, *, negative: bool, told: set[str]
) -> Article:
    """Draw an article that was not told yet: each has names, and there are millions of them, so the second draw is rare."""
    words, case, quiet = _TELLERS[language]
    while True:
        article = (quiet if negative else case)(Lexicon(rng, words, split), length)
        if article.text not in told:
            told.add(article.text)
            return article


def _answer(person: Person, keys: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": person.name,
        "is_real": True,
        "is_offender": True,
        "age": int(person.age) if person.age else "",
        "position": person.position,
        "affiliation": person.affiliation,
        "address": person.address,
        "category": CATEGORY,
        "act": person.act,
    }
    return {key: values[key] for key in keys}
