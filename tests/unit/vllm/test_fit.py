"""How large vLLM's cache becomes, and what happens where there is no memory; the GPU's memory alone is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tanren.common.errors import MachineError
from tanren.common.models.tiny import tiny_model
from tanren.common.vllm import Settings, Vllm, _engine, fit_settings
from tanren.common.vllm_memory import VllmMemory, vllm_refusal

GIB = 2**30
TOKEN = 2 * 2 * 2 * 2 * 16
"""Bytes of a token's keys and values in tiny-qwen3: both, bfloat16, 2 layers, 2 heads, 16 numbers."""


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets what is free, in bytes: now, and at each later question."""

    def say(*free: float) -> None:
        left = list(free)
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda: (int(left.pop(0) if len(left) > 1 else left[0]), 80 * GIB)
        )
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    return say


def _fit(**settings: Any) -> Any:
    model = tiny_model("tiny-qwen3", torch.bfloat16)
    return fit_settings(model, **{"prompt_tokens": 100, "new_tokens": 50, "prompts": 4, "samples": 8} | settings)


def test_the_cache_holds_what_is_generated_together_and_each_prompt_once(memory: Callable[..., None]) -> None:
    memory(40 * GIB)
    fitted = _fit()
    # 100 tokens are 7 blocks of 16; 50 are 4, and one more for the last tokens of the prompt.
    assert fitted.settings.cache_bytes == TOKEN * 16 * (4 * 7 + 32 * 5)
    assert fitted.held == pytest.approx(32)
    assert (fitted.settings.sequences, fitted.settings.longest) == (32, 150)
    assert "holds 32 of 32 completions at once" in fitted.line()


def test_where_there_is_less_room_fewer_are_held_and_where_there_is_none_it_is_told(
    memory: Callable[..., None],
) -> None:
    memory(40 * GIB)
    whole = _fit(new_tokens=4000, prompts=200).settings.cache_bytes
    model = tiny_model("tiny-qwen3", torch.bfloat16)
    weights = 2 * model.num_parameters()
    fixed = VllmMemory(model.config, weights, 80 * GIB, 100, 4000, 200, 1600, graphs=True).fixed
    memory(GIB + sum(fixed.values()) + whole / 2)
    half = _fit(new_tokens=4000, prompts=200)
    assert half.settings.cache_bytes == whole // 2
    assert half.held == pytest.approx(800, rel=0.001)
    memory(GIB)
    with pytest.raises(MachineError, match=r"no room for vLLM: 1\.0 GiB of the GPU are free; it needs vLLM weights"):
        _fit()


def test_a_share_is_taken_at_its_word(memory: Callable[..., None]) -> None:
    memory(60 * GIB)
    assert 20 * GIB < _fit(share=0.3).settings.cache_bytes < 24 * GIB
    with pytest.raises(MachineError, match=r"change vLLM's share of 0\.9, or leave it at auto"):
        _fit(share=0.9)
    with pytest.raises(MachineError, match=r"change vLLM's share of 0\.001"):
        _fit(share=0.001)


def _asleep(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """Return a vLLM that sleeps, and what is asked of it."""
    asked: list[str] = []

    class _Llm:
        def wake_up(self) -> None:
            asked.append("wake")

    vllm = Vllm.__new__(Vllm)
    vllm._settings, vllm._asleep, vllm._weights = Settings(8, 100, 6 * GIB, sleep_level=2), True, 8 * GIB
    vllm._llm = _Llm()
    monkeypatch.setattr(_engine, "PATIENCE_S", 0.5)
    return vllm, asked


def test_waking_waits_for_memory_and_takes_nothing_where_it_does_not_come(
    memory: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm, asked = _asleep(monkeypatch)
    memory(3 * GIB, 9 * GIB, 15 * GIB)
    vllm.wake()
    assert asked == ["wake"]
    vllm, asked = _asleep(monkeypatch)
    memory(3 * GIB)
    with pytest.raises(
        MachineError, match=r"it needs 14.0 GiB \(8.0 for its weights\), and for 0 s 3.0 GiB of the GPU"
    ):
        vllm.wake()
    assert asked == []
    memory(20 * GIB)
    vllm.wake()  # nothing was half taken
    assert asked == ["wake"]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (("cpu", "bfloat16", "none"), "generates on a GPU"),
        (("cuda", "float32", "none"), "in 16 bits, and the model is in float32"),
    ],
)
def test_where_vllm_cannot_run_is_told(facts: tuple[str, str, str], told: str) -> None:
    assert told in str(vllm_refusal(*facts))
