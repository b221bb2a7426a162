"""Cross entropy through the output head in parts, against all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from tanren.common.fused import _loss, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS, WIDTH, WORDS = 40, 16, 30


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("trained", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("above", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, rows: int, trained: tuple[bool, bool], above: float
) -> None:
    monkeypatch.setattr(_loss, "LOGITS", rows * WORDS)
    generator = torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(count, WIDTH, generator=generator) for count in (TOKENS, WORDS))
    predicting = torch.randperm(TOKENS, generator=generator)[:25]
    targets = torch.randint(0, WORDS, (25,), generator=generator)

    exact = [one.double().requires_grad_() for one in (hidden, weight)]
    expected = cross_entropy(exact[0][predicting] @ exact[1].t(), targets, reduction="sum") * above
    expected.backward()
    made = [one.clone().requires_grad_(wanted) for one, wanted in zip((hidden, weight), trained, strict=True)]
    loss = linear_cross_entropy(made[0], made[1], predicting, targets)
    (loss * above).backward()

    assert loss.dtype == torch.float32
    assert (loss.double() * above).item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other, wanted in zip(made, exact, trained, strict=True):
        assert (one.grad is not None) == wanted
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-6)


def test_a_token_whose_next_one_is_not_learned_gets_no_gradient() -> None:
    hidden = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(2))
    predicting = torch.tensor([3, 9])
    linear_cross_entropy(hidden, weight, predicting, torch.tensor([1, 2])).backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3, 9]


def test_nothing_is_made_for_a_backward_pass_that_does_not_come() -> None:
    weight = torch.randn(WORDS, WIDTH).requires_grad_()
    with torch.no_grad():
        loss = linear_cross_entropy(torch.randn(4, WIDTH), weight, torch.arange(4), torch.arange(4))
    assert loss.isfinite()
    assert not loss.requires_grad
