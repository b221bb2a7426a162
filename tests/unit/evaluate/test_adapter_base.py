"""An adapter is evaluated on the base that it was trained on, as that was kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tanren.common.config import Loaded
from tanren.evaluate.candidate import quantisation_of
from tanren.evaluate.config import EvaluateConfig


@pytest.mark.parametrize(
    ("trained", "asked", "origins", "expected", "told"),
    [
        (None, "none", {}, "none", ""),
        ("nf4", "nf4", {"model.quantisation": "recipe"}, "nf4", ""),
        ("nf4", "none", {}, "nf4", "the base model is loaded in nf4, as the adapter was trained"),
        (
            "nf4",
            "none",
            {"model.quantisation": "flag --model.quantisation"},
            "none",
            "the adapter was trained on a base with quantisation nf4; it is evaluated with none, as model.quantisation says",
        ),
        (
            None,
            "int8",
            {"model.quantisation": "recipe"},
            "int8",
            "the adapter was trained on a base with quantisation none; it is evaluated with int8",
        ),
    ],
)
def test_the_base_is_loaded_as_the_adapter_was_trained_or_it_is_said_that_it_is_not(
    trained: str | None, asked: str, origins: dict[str, str], expected: str, told: str
) -> None:
    base = {"name": "m"} | ({"quantisation": trained} if trained else {})
    adapter: Any = SimpleNamespace(base=base)  # what is recorded of its base is all that decides
    config = EvaluateConfig.model_validate({"model": {"quantisation": asked}})
    found, said = quantisation_of(Loaded(config, origins, None), adapter)
    assert found == expected
    assert said.startswith(told)
    assert bool(said) == bool(told)


def test_without_an_adapter_the_recipe_decides() -> None:
    config = EvaluateConfig.model_validate({"model": {"quantisation": "int8"}})
    assert quantisation_of(Loaded(config, {}, None), None) == ("int8", "")
