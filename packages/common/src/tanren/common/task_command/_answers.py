"""Checks of parser, reward and metrics: gold answers earn full marks, wrong ones do not, hostile ones do no harm."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from tanren.common.task_command._finding import Broken
from tanren.common.task_contract import Mistake, Parsed, Ratio, Row, Verdict
from tanren.common.task_packs import TaskPack

NOT_ANSWERS = ("", "I do not know.")
HOSTILE = {
    "nothing": "",
    "NULs": "\0" * 50,
    "a lone surrogate": "\ud800",
    "100,000 brackets": "[" * 100_000,
    "100,000 braces": "{" * 100_000,
    "100,000 digits": "9" * 100_000,
    "100,000 tags": "<a>" * 100_000,
    "a million spaces": " " * 1_000_000,
    "unclosed reasoning": "<think>" * 1000,
    "code": "__import__('os').abort()",
}
MOST_SECONDS = 5.0
"""For one hostile answer. A bounded parser takes milliseconds; a training step judges hundreds of answers."""


def check_gold(pack: TaskPack, rows: Sequence[Row]) -> str:
    """Raise Broken unless each reference answer is correct, and a reward is its due."""
    rewards = pack.module.reward([row.reference for row in rows], rows)
    for row, reward in zip(rows, rewards, strict=True):
        parsed = pack.parse(row.reference, row)
        if parsed.verdict is not Verdict.CORRECT:
            raise Broken(
                f"row {row.id!r}: its own reference is judged {parsed.verdict} ({parsed.error or 'no error given'}), expected correct"
            )
        if reward is None and row.expected is not None:
            raise Broken(f"row {row.id!r}: its own reference has no reward, expected a number")
    known = [reward for reward in rewards if reward is not None]
    return f"{len(rows)} references are correct" + (f", reward {min(known):g} to {max(known):g}" if known else "")


def check_wrong(pack: TaskPack, rows: Sequence[Row]) -> str:
    """Raise Broken where an answer that is none is correct, where every answer is, or where a wrong one earns full marks."""
    for text in NOT_ANSWERS:
        taken = _judged_correct(pack, rows, [text] * len(rows))
        if taken:
            raise Broken(f"row {taken[0].id!r}: {text!r} is judged correct, expected not")
    others = [rows[(number + 1) % len(rows)].reference for number in range(len(rows))]
    taken = _judged_correct(pack, rows, others)
    if len(rows) > 1 and len(taken) == len(rows):
        raise Broken(
            "the reference of another row is judged correct in every row; expected not, but where both have one answer"
        )
    return f"no answer is not correct; another row's reference is wrong in {len(rows) - len(taken)} of {len(rows)} rows"


def _judged_correct(pack: TaskPack, rows: Sequence[Row], given: Sequence[str]) -> list[Row]:
    """Return the rows whose given answer is judged correct; raise Broken where another one earns as much as the reference."""
    gold = pack.module.reward([row.reference for row in rows], rows)
    rewards = pack.module.reward(given, rows)
    taken = []
    for row, text, reward, best in zip(rows, given, rewards, gold, strict=True):
        if pack.parse(text, row).correct:
            taken.append(row)
        elif reward is not None and best is not None and reward >= best:
            raise Broken(
                f"row {row.id!r}: {text[:60]!r} is not correct and earns {reward:g}, expected less than the reference's {best:g}"
            )
    return taken


def check_reward(pack: TaskPack, rows: Sequence[Row]) -> str:
    """Raise Broken unless rewards are finite numbers or None that depend on their own completion and row alone."""
    texts = [row.reference if number % 2 else "I do not know." for number, row in enumerate(rows)]
    found = pack.module.reward(texts, rows)
    if len(found) != len(rows):
        raise Broken(f"{len(rows)} completions have {len(found)} rewards, expected one each")
    for row, reward in zip(rows, found, strict=True):
        if reward is not None and not (isinstance(reward, int | float) and math.isfinite(reward)):
            raise Broken(
                f"row {row.id!r}: the reward is {reward!r}, expected a finite number, or None where there is none"
            )
    again = pack.module.reward(texts, rows)
    turned = pack.module.reward(texts[::-1], rows[::-1])[::-1]
    alone = [pack.module.reward([text], [row])[0] for text, row in zip(texts, rows, strict=True)]
    for how, other in (("asked again", again), ("in another order", turned), ("alone", alone)):
        differing = next((n for n, (one, two) in enumerate(zip(found, other, strict=True)) if one != two), None)
        if differing is not None:
            raise Broken(
                f"row {rows[differing].id!r}: the reward is {found[differing]!r}, and {other[differing]!r} {how}; expected the same"
            )
    return "the same again, in another order, and alone"


def check_hostile(pack: TaskPack, row: Row) -> str:
    """Raise Broken where a hostile answer makes the parser or the reward raise, is correct, or takes long."""
    for name, text in HOSTILE.items():
        begun = time.perf_counter()
        try:
            parsed = pack.parse(text, row)
            pack.module.reward([text], [row])
        except Exception as error:
            raise Broken(
                f"{name}: {type(error).__name__}: {str(error)[:100]}; expected a verdict for any text"
            ) from error
        seconds = time.perf_counter() - begun
        if not isinstance(parsed, Parsed):
            raise Broken(f"{name}: parse returned {type(parsed).__name__}, expected Parsed")
        if parsed.correct:
            raise Broken(f"{name}: judged correct, expected not")
        if seconds > MOST_SECONDS:
            raise Broken(f"{name}: judging took {seconds:.1f} s, expected milliseconds; bound what is read")
    return f"{len(HOSTILE)} kinds of text are judged, none is correct"


def check_metrics(pack: TaskPack, rows: Sequence[Row]) -> str:
    """Raise Broken unless each metric has finite sums, and a gold answer no mistakes."""
    measures, mistakes = (getattr(pack.module, name, None) for name in ("measures", "mistakes"))
    names: dict[str, None] = {}
    for row in rows:
        for text in (row.reference, "I do not know."):
            found = measures(text, row) if measures else {}
            names |= dict.fromkeys(found)
            for name, ratio in found.items():
                if not isinstance(ratio, Ratio) or not (
                    math.isfinite(ratio.numerator) and 0 <= ratio.denominator < math.inf
                ):
                    raise Broken(
                        f"row {row.id!r}: {name} is {ratio!r}, expected a Ratio of finite numbers, the second 0 or more"
                    )
            made = mistakes(text, row) if mistakes else []
            if not all(isinstance(one, Mistake) for one in made):
                raise Broken(f"row {row.id!r}: mistakes gave {made!r}, expected a list of Mistake")
            if made and text == row.reference:
                raise Broken(f"row {row.id!r}: its own reference has the mistake {made[0]!r}, expected none")
    return f"{len(names)} metrics" + (", mistakes by kind" if mistakes else "")
