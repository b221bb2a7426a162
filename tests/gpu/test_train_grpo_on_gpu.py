"""What the CPU tests of train-grpo show, on a CUDA device: log-probabilities through fused layers, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.grpo_runs import numbers_of, write_work

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def _log_probs(model: Any, layers: str, *, reference: bool = False) -> tuple[Any, Any]:
    """Log-probabilities and entropies of packed samples, and the adapters' gradients of a weighted sum."""
    from tanren.common.fused import choose_route, next_token_log_probs

    choose_route(model, layers, "none", "cuda")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    lengths = [200, 1, 77]
    tokens = torch.randint(3, 259, (1, sum(lengths)), generator=generator).cuda()
    positions = torch.cat([torch.arange(length) for length in lengths])[None].cuda()
    predicting = torch.cat([torch.arange(100, 199), torch.arange(220, 277)]).cuda()
    found = next_token_log_probs(
        model, tokens, positions, lengths, predicting, tokens[0, predicting + 1], reference=reference
    )
    if reference:
        return found, None
    above = torch.linspace(-1, 1, len(predicting)).cuda()
    trained = [one for one in model.parameters() if one.requires_grad]
    return found, torch.cat([one.flatten() for one in torch.autograd.grad((above * found.log_probs).sum(), trained)])


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_log_probs_through_fused_layers_are_the_librarys(dtype: str, limit: float) -> None:
    from peft import LoraConfig, get_peft_model

    from tanren.common.attention.packed import registered_name
    from tanren.common.models.tiny import tiny_model

    base: Any = tiny_model("tiny-qwen3", getattr(torch, dtype))
    base.cuda()
    base.set_attn_implementation(registered_name("sdpa"))
    torch.manual_seed(7)
    model: Any = get_peft_model(base, LoraConfig(r=8, target_modules=ALL))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    (plain, expected), (fused, gradients) = _log_probs(model, "plain"), _log_probs(model, "fused")
    torch.testing.assert_close(fused.log_probs, plain.log_probs, rtol=0, atol=limit)
    torch.testing.assert_close(fused.entropies, plain.entropies, rtol=0, atol=limit)
    assert float((gradients - expected).norm() / expected.norm()) < 4 * limit
    reference = [_log_probs(model, layers, reference=True)[0].log_probs for layers in ("plain", "fused")]
    assert torch.equal(*reference)
    assert float((reference[0] - plain.log_probs).abs().max()) > 1e-2


@pytest.mark.filterwarnings("ignore")
def test_it_learns_and_repeats_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tanren.common.command import run_command
    from tanren.grpo.cli import _main

    write_work(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(Path(__file__).resolve().parents[2]))
    for name in ("one", "two"):
        assert run_command(_main, ["letters.toml", "--output.run-dir", str(tmp_path / name)]) == 0
    one, two = (numbers_of(tmp_path / name) for name in ("one", "two"))
    assert one == two
    rewards = [step["reward"] for step in one]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.6
    assert max(step["log_prob_gap_kl"] for step in one if step["log_prob_gap_kl"] is not None) < 1e-3
