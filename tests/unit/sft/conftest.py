"""Samples of tokens that need no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tanren.common.chat import Sample

MakeSample = Callable[..., Sample]


@pytest.fixture(scope="session")
def make() -> MakeSample:
    """Return a function that makes a sample from token ids, of which the first `prompt` are not learned."""

    def sample(ids: Sequence[int], prompt: int = 1, row_id: str = "r") -> Sample:
        mask = [index >= prompt for index in range(len(ids))]
        return Sample(row_id, list(ids), mask, "")

    return sample
