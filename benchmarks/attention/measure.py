"""Attention kernels over packed samples, side by side on this GPU: milliseconds and TFLOP/s, forward and with backward.

    python benchmarks/attention/measure.py OUT.json

Needs a CUDA device; kernels that are not installed or do not serve a case are left out and named. Inputs are random,
times are medians of CUDA events after warm-up.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tanren.common.attention import AttentionTraits, gpu_facts, installed_kernels, select_attention
from tanren.common.attention._packing import Packing, Scores
from tanren.common.attention.packed import attend
from tanren.common.errors import UserError

KERNELS = ("flash_attention_4", "varlen", "sdpa")
REPEATS = 20


@dataclass(frozen=True)
class Case:
    """One shape of attention and one packing."""

    name: str
    heads: int
    kv_heads: int
    size: int
    lengths: tuple[int, ...]
    window: int = 0
    sinks: bool = False
    deterministic: bool = False

    @property
    def forward_flops(self) -> float:
        """Two products over the pairs of tokens that see each other."""
        window = self.window or max(self.lengths)
        pairs = sum(sum(min(place + 1, window) for place in range(length)) for length in self.lengths)
        return 4.0 * pairs * self.heads * self.size

    @property
    def traits(self) -> AttentionTraits:
        """As a model would have them."""
        windows = (self.window,) if self.window else ()
        return AttentionTraits(self.heads, self.kv_heads, self.size, self.size, windows, self.sinks)


QWEN3 = (32, 8, 128)
GPT_OSS = (64, 8, 64)
LONG = (1024, 2048, 1536, 512, 2048, 1024, 1536, 2560)  # 12,288
SHORT = tuple(60 + 7 * (index % 25) for index in range(85))
CASES = (
    Case("qwen3-4b, one sample of 12,288", *QWEN3, (12_288,)),
    Case("qwen3-4b, 8 samples in 12,288", *QWEN3, LONG),
    Case("qwen3-4b, 8 samples, fixed order", *QWEN3, LONG, deterministic=True),
    Case("qwen3-4b, 85 short samples", *QWEN3, SHORT),
    Case("smollm2-135m, 85 short samples", 9, 3, 64, SHORT),
    Case("gpt-oss, full, sinks, 8 samples", *GPT_OSS, LONG, sinks=True),
    Case("gpt-oss, window 128, sinks, 8 samples", *GPT_OSS, LONG, window=128, sinks=True),
)


def measure(case: Case, kernel: str) -> dict[str, float]:
    """Return the times and the peak memory of one kernel in one case."""
    generator = torch.Generator("cuda").manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        tensor = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        return tensor.requires_grad_()

    tokens = sum(case.lengths)
    query = random(1, case.heads, tokens, case.size)
    key, value = (random(1, case.kv_heads, tokens, case.size) for _ in range(2))
    sinks = random(case.heads) if case.sinks else None
    inputs = [query, key, value, *([sinks] if sinks is not None else [])]
    packing, scores = Packing.of(case.lengths, "cuda"), Scores(case.size**-0.5, case.window, sinks=sinks)
    above = torch.randn(1, tokens, case.heads, case.size, generator=generator, device="cuda", dtype=torch.bfloat16)

    def forward() -> torch.Tensor:
        return attend(kernel, query, key, value, packing, scores)

    def both() -> Any:
        return torch.autograd.grad(forward(), inputs, above)

    torch.use_deterministic_algorithms(case.deterministic)
    try:
        forward_ms, both_ms = _median(forward), _median(both)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        peak = torch.cuda.max_memory_allocated() - before
    finally:
        torch.use_deterministic_algorithms(False)
    return {
        "forward_ms": round(forward_ms, 4),
        "forward_backward_ms": round(both_ms, 4),
        # the backward pass has five products where the forward pass has two
        "tflops": round(3.5 * case.forward_flops / both_ms / 1e9, 1),
        "peak_mib": round(peak / 2**20, 1),
    }


def _median(run: Callable[[], Any]) -> float:
    """Milliseconds."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return float(statistics.median(times))


def main() -> None:
    """Measure all cases, write them, print a table."""
    gpu, installed = gpu_facts("cuda"), installed_kernels()
    assert gpu is not None
    results: list[dict[str, Any]] = []
    for case in CASES:
        for kernel in KERNELS:
            try:
                select_attention(gpu, installed, case.traits, dtype="bfloat16", named=kernel)
                numbers: dict[str, Any] = dict(measure(case, kernel))
            except (UserError, RuntimeError) as error:
                numbers = {"left_out": str(error).splitlines()[0]}
            results.append({"case": case.name, "kernel": kernel} | numbers)
            sys.stdout.write(json.dumps(results[-1]) + "\n")
            sys.stdout.flush()
    facts = {"gpu": gpu.name, "torch": torch.__version__, "installed": dict(installed), "results": results}
    Path(sys.argv[1]).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
