"""The pack keeps the contract, and its parser judges as README.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tanren.common.task_command import check_pack
from tanren.common.task_contract import Row, Verdict
from tanren.common.task_packs import load_pack

FOLDER = Path(__file__).resolve().parents[1]


def test_the_pack_keeps_the_contract() -> None:
    """Rows, splits, gold and wrong answers, reward, prompts: what `tanren task check` looks at."""
    failed = [finding for finding in check_pack(str(FOLDER)) if not finding.passed]
    assert failed == []


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("12 x screws", Verdict.CORRECT),
        (" 12 x screws\n", Verdict.CORRECT),
        ("21 x screws", Verdict.WRONG),
        ("12 screws", Verdict.UNPARSABLE),
        ("The order is 12 x screws.", Verdict.UNPARSABLE),
        ("", Verdict.ABSENT),
    ],
)
def test_answers_are_judged(completion: str, verdict: Verdict) -> None:
    """A row is written here, so that what the generator draws does not matter."""
    row = Row("known", (), "12 x screws", "plain", {"quantity": 12, "item": "screws"})
    assert load_pack(str(FOLDER)).parse(completion, row).verdict is verdict
