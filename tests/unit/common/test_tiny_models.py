"""The tiny models and what a model name means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tanren.common.errors import UserError
from tanren.common.models.source import TINY, resolve_source
from tanren.common.models.tiny import tiny_model


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_model_has_the_same_weights_at_every_call_and_leaves_the_random_state_alone(name: str) -> None:
    torch.manual_seed(1)
    first = tiny_model(name, torch.float32).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    second = tiny_model(name, torch.float32).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_model_is_tiny_and_in_the_asked_precision(name: str) -> None:
    model = tiny_model(name, torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) < 500_000
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("builtin:tiny-qwen", "did you mean 'builtin:tiny-qwen3'?"),
        ("builtin:zzz", "known: builtin:smollm2-135m"),
        ("./nowhere", "no such folder, and not a hub id"),
        ("/nowhere/at/all", "no such folder"),
        ("a/b/c", "not a hub id"),
        ("gpt2", "known builtin models: builtin:smollm2-135m"),
    ],
)
def test_an_impossible_name_is_told(name: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_source(name)
    assert told in str(caught.value)


def test_a_folder_needs_a_config_and_takes_no_revision(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    source = resolve_source(str(tmp_path))
    assert (source.kind, source.location) == ("folder", str(tmp_path.resolve()))
    with pytest.raises(UserError, match="has no effect on the local folder"):
        resolve_source(str(tmp_path), "main")


def test_a_hub_id_keeps_its_revision_and_a_tiny_model_has_none() -> None:
    source = resolve_source("owner/model", "v1")
    assert (source.kind, source.location, source.revision) == ("hub", "owner/model", "v1")
    assert source.provenance() == {"name": "owner/model", "kind": "hub", "location": "owner/model", "revision": "v1"}
    with pytest.raises(UserError, match="has no effect on builtin:tiny-qwen3"):
        resolve_source("builtin:tiny-qwen3", "main")


def test_a_revision_asks_for_the_hubs_weights_of_smollm2_not_for_the_packaged_ones() -> None:
    assert resolve_source("builtin:smollm2-135m", "main").kind == "hub"
