"""The stream of rows: notes with an order in them, drawn from a seed."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Split

from .prompts import build_prompt

ITEMS = (
    "screws",
    "hinges",
    "lamps",
    "brushes",
    "plates",
    "ropes",
    "tiles",
    "valves",
    "boxes",
    "bolts",
    "hooks",
    "candles",
)
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ines", "Jon")
STYLES = {
    "plain": ("Please send {quantity} {item} to {name}.", "{name} needs {quantity} {item} by Friday."),
    "distracted": (
        "{name} sent {other} {wrong} back and now wants {quantity} {item}.",
        "We had {other} {wrong} from {name} last week; today it is {quantity} {item}.",
    ),
}
MOST_ROWS = 500
"""Rows that a split can have: above half of the held-out orders, new ones would be hard to find."""


def stream(split: Split, seed: int) -> Iterator[Row]:
    """Yield rows, each of another order. Raises UserError when MOST_ROWS is passed."""
    told: set[str] = set()
    for index in itertools.count():
        if index == MOST_ROWS:
            raise UserError(f"orders_skeleton: more than {MOST_ROWS} rows of {split} were asked for; ask for fewer")
        # A generator of its own for each row: rows do not depend on how many are asked for, nor on anything else.
        rng = random.Random(f"orders_skeleton/{seed}/{split}/{index}")  # noqa: S311 - data, not secrets
        while True:
            order = f"{rng.randint(2, 199)} x {rng.choice(ITEMS)}"
            if is_held_out(order) == (split == "heldout") and order not in told:
                told.add(order)
                yield _row(rng, f"{split}-{index:05d}", order, tuple(STYLES)[index % len(STYLES)])
                break


def is_held_out(order: str) -> bool:
    """Decide the split by the content, so that nothing is in both, whatever the seed: a quarter is held out."""
    return hashlib.sha256(order.encode()).digest()[0] % 4 == 0


def _row(rng: random.Random, row_id: str, order: str, style: str) -> Row:
    quantity, item = order.split(" x ")
    note = rng.choice(STYLES[style]).format(
        quantity=quantity,
        item=item,
        name=rng.choice(NAMES),
        other=rng.randint(2, 199),
        wrong=rng.choice([one for one in ITEMS if one != item]),
    )
    return Row(
        id=row_id,
        prompt=(Message("user", build_prompt(note)),),
        reference=order,  # the text that is learned
        group=style,  # results are broken down by it
        expected={"quantity": int(quantity), "item": item},  # the value that answers are compared with
        metadata={"note": note},
    )
