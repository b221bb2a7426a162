"""Rows and predictions of a small task: write a word in capitals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tanren.common.task_contract import Message, Row
from tanren.evaluate.predictions import Prediction

WORDS = ("ash", "oak", "birch", "maple")


@pytest.fixture
def rows() -> list[Row]:
    return [
        Row(word, (Message("user", word),), word.upper(), "short" if len(word) < 5 else "long", word.upper())
        for word in WORDS
    ]


@pytest.fixture(scope="session")
def predict() -> Callable[..., Prediction]:
    """Return a function that makes a prediction of an id and a completion."""

    def prediction(identity: str, completion: str = "", *, cut: bool = False) -> Prediction:
        return Prediction(identity, completion, "0" * 16, "length" if cut else "stop", 3, 2)

    return prediction
