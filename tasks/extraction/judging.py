"""Judging one answer: its verdict, its reward, what it adds to each metric, and each of its mistakes by kind.

All of them are made from one `Judgement`, so training, evaluation and the report cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tanren.common.errors import UserError
from tanren.common.task_contract import Mistake, Parsed, Ratio, Row, Verdict

from .answer import AnswerError, read_object, shape_error
from .fields import NAME, Content, content_of, fields_asked, folded, is_blank, occurs_in, same, same_value

PARSED_REWARD, SHAPE_REWARD = 0.1, 0.2
"""For JSON, and for JSON of the asked shape: enough to learn the form from, too little to settle for."""


@dataclass(frozen=True)
class Judgement:
    """One answer beside its gold values; `found` is None where the answer cannot be read or has another shape."""

    gold: Content
    found: Content | None
    parsed: bool
    absent: bool
    error: str

    @property
    def matches(self) -> dict[str, bool]:
        """By field, whether the answer is exactly the gold one; an answer that cannot be read matches nowhere."""
        found = self.found
        return {field: found is not None and same(field, found[field], gold) for field, gold in self.gold.items()}

    @property
    def stated(self) -> list[str]:
        """The fields in which gold or answer say something."""
        return [field for field, gold in self.gold.items() if not is_blank(gold) or not is_blank(self._values(field))]

    @property
    def correct(self) -> bool:
        """Whether all fields are exactly right."""
        return all(self.matches.values())

    def names(self) -> tuple[set[str], set[str]]:
        """Return the gold and the found offenders' names."""
        return ({name for name in self.gold[NAME] if name}, {name for name in self._values(NAME) if name})

    def offenders(self) -> tuple[int, int]:
        """Return how many offenders gold and answer have."""
        return len(self.gold[NAME]), len(self._values(NAME))

    def _values(self, field: str) -> tuple[str, ...]:
        return () if self.found is None else self.found[field]


def judge(completion: str, row: Row) -> Judgement:
    """Judge a completion. Raises UserError for a row without a gold object of the asked shape."""
    keys = row.metadata.get("person_keys")
    if not isinstance(row.expected, dict) or shape_error(row.expected) or not keys:
        wrong = "no metadata.person_keys" if not keys else f"the gold value {str(row.expected)[:60]!r}"
        raise UserError(f"row {row.id}: found {wrong}, expected an object of persons, places and police departments")
    gold = content_of(row.expected, keys)
    try:
        value = read_object(completion)
    except AnswerError as error:
        return Judgement(gold, None, parsed=False, absent=error.absent, error=str(error))
    wrong = shape_error(value)
    if wrong:
        return Judgement(
            gold, None, parsed=True, absent=False, error=f"{wrong}; expected the lists that were asked for"
        )
    return Judgement(gold, content_of(value, keys), parsed=True, absent=False, error="")


def parse(completion: str, row: Row) -> Parsed:
    """Judge a completion: wrong names the first mistake, with its kind."""
    judgement = judge(completion, row)
    if not judgement.parsed:
        return Parsed(Verdict.ABSENT if judgement.absent else Verdict.UNPARSABLE, error=judgement.error)
    if judgement.found is None:
        return Parsed(Verdict.WRONG, error=judgement.error)
    value = {field: list(values) for field, values in judgement.found.items()}
    if judgement.correct:
        return Parsed(Verdict.CORRECT, value)
    first = next(_mistakes(judgement, row))
    return Parsed(
        Verdict.WRONG, value, f'{first.kind}: {first.where}: found "{first.found}", expected "{first.expected}"'
    )


def reward_of(completion: str, row: Row) -> float:
    """Return 0 without JSON, 0.1 for JSON, and from 0.2 for its shape up to 1 by the share of exact fields, blank ones apart."""
    judgement = judge(completion, row)
    if judgement.found is None:
        return PARSED_REWARD if judgement.parsed else 0.0
    stated = judgement.stated
    if not stated:
        return 1.0
    matches = judgement.matches
    return SHAPE_REWARD + (1 - SHAPE_REWARD) * sum(matches[field] for field in stated) / len(stated)


def measures(completion: str, row: Row) -> dict[str, Ratio]:
    """Return what an answer adds to numerator and denominator of each metric (README.md lists them)."""
    judgement = judge(completion, row)
    (gold, found), (gold_names, found_names) = judgement.offenders(), judgement.names()
    both_present, same_names = gold > 0 and found > 0, len(gold_names & found_names)
    matches, stated = judgement.matches, judgement.stated
    return {
        "json_parse_rate": Ratio(judgement.parsed, 1),
        "schema_ok_rate": Ratio(judgement.found is not None, 1),
        "offender_presence_precision": Ratio(both_present, found > 0),
        "offender_presence_recall": Ratio(both_present, gold > 0),
        "offender_presence_f1": Ratio(2 * both_present, (found > 0) + (gold > 0)),
        "offender_name_set_precision": Ratio(same_names, len(found_names)),
        "offender_name_set_recall": Ratio(same_names, len(gold_names)),
        "offender_name_set_f1": Ratio(2 * same_names, len(found_names) + len(gold_names)),
        "fp_rate_on_negative": Ratio(gold == 0 and found > 0, gold == 0),
        "avg_gold_offender_count": Ratio(gold, 1),
        "avg_pred_offender_count": Ratio(found, 1),
        "all_fields_exact_match_rate": Ratio(judgement.correct, 1),
        **{f"field_exact_match_rate/{field}": Ratio(match, 1) for field, match in matches.items()},
        **{
            f"stated_match_rate/{field}": Ratio(match and field in stated, field in stated)
            for field, match in matches.items()
        },
    }


def mistakes(completion: str, row: Row) -> list[Mistake]:
    """Return the mistakes of an answer: miss, span_mismatch, hallucination or other (README.md says which is which)."""
    return list(_mistakes(judge(completion, row), row))


def _mistakes(judgement: Judgement, row: Row) -> Iterator[Mistake]:
    if judgement.found is None:
        yield Mistake("other", "answer", judgement.error, "a JSON object of the asked shape")
        return
    article = folded(str(row.metadata["article"]))
    for field in fields_asked(row.metadata["person_keys"]):
        gold, found = judgement.gold[field], judgement.found[field]
        if same(field, found, gold):
            continue
        missing, extra = _apart(field, gold, found)
        if not missing and not extra:
            as_lists = [json.dumps(values, ensure_ascii=False) for values in (found, gold)]
            yield Mistake("other", field, as_lists[0], f"{as_lists[1]}, in this order")
        for number, value in enumerate(extra):
            wanted = missing[number] if number < len(missing) else ""
            repeated = any(same_value(field, value, one) for one in gold)
            kind = "other" if repeated else "span_mismatch" if occurs_in(value, article) else "hallucination"
            yield Mistake(kind, field, value, wanted or "nothing")
        for value in missing[len(extra) :]:
            yield Mistake("miss", field, "nothing", value)


def _apart(field: str, gold: tuple[str, ...], found: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the gold values that were not found, and the found ones that are not gold; blanks apart."""
    missing, extra = [one for one in gold if one], []
    for value in found:
        match = next((one for one in missing if same_value(field, value, one)), None)
        if match is not None:
            missing.remove(match)
        elif value:
            extra.append(value)
    return missing, extra
