"""Whether a group shares its prompt in training: chosen by the kernel, proven on the model, refused where it was asked for and cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tanren.common.attention import AttentionTraits, Choice
from tanren.common.attention.packed import sharing_fault
from tanren.common.errors import UserError
from tanren.grpo import sharing
from tanren.grpo.sharing import choose_sharing

MakeModel = Callable[..., Any]
SDPA = Choice("sdpa", "for the test")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-gpt-oss"])
def test_it_is_proven_on_the_model(adapted: MakeModel, name: str) -> None:
    found = choose_sharing(adapted(name), "auto", SDPA)
    assert found.shared
    assert "read once for all completions of a group (proven on this model: log-probabilities within" in found.line()


def test_a_model_that_gives_other_numbers_reads_prompts_alone(
    adapted: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted()
    true = sharing._log_probs

    def blind(*arguments: Any, shared: bool) -> Any:  # as if completions did not see their prompt
        found = true(*arguments, shared=shared)
        return found + 0.2 if shared else found

    monkeypatch.setattr(sharing, "_log_probs", blind)
    found = choose_sharing(model, "auto", SDPA)
    assert not found.shared
    assert "it gives other numbers on this model: log-probabilities within 2.0e-01 nats" in found.why
    with pytest.raises(UserError, match=r"train\.share_prompts = on: it gives other numbers"):
        choose_sharing(model, "on", SDPA)


def test_what_cannot_share_says_why(adapted: MakeModel) -> None:
    assert choose_sharing(adapted(), "off", SDPA).why == "train.share_prompts = off"
    own = choose_sharing(adapted(), "auto", Choice("eager", "its own", packs=False))
    assert (own.shared, own.why) == (False, "this model's attention takes one sample at a time")
    windows = AttentionTraits(8, 2, 64, 64, windows=(128,))
    assert sharing_fault("sdpa", windows) is None
    assert "sliding windows" in str(sharing_fault("flash_attention_4", windows))
    assert "attention sinks" in str(sharing_fault("varlen", AttentionTraits(8, 2, 64, 64, sinks=True)))
    assert "has no such pass" in str(sharing_fault("flash_attention_2", AttentionTraits(8, 2, 64, 64)))
