"""Ways through layers of experts with adapters, side by side: milliseconds forward and backward, peak memory.

    python -m benchmarks.experts.measure OUT.json [--shape qwen3-30b-a3b|gpt-oss-20b|small] [--layers 4] [--tokens 8192] [--profile]

A few layers of a real shape with random weights, LoRA of rank 8 on attention and experts, one packed sequence, in bfloat16 on a
CUDA device; `--shape small` in float32 runs on a CPU as well. Ways: `grouped` is ours (tanren.common.experts), the others are
the library's with PEFT's merged weights: its grouped product, and its loop over experts. `no adapters` are ours with LoRA on
attention alone: what adapters on experts cost. One way after the other, in one process; the least of several
times, since others on the machine only add. A way that runs out of memory is a result.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tanren.common.models.device import set_cuda_variables

set_cuda_variables()  # read when CUDA starts

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tanren.common.attention.packed import packing_arguments, registered_name
from tanren.common.config import LoraConfig
from tanren.common.experts import choose_experts
from tanren.common.lora import attach_adapter
from tanren.common.plan.trace import shape_of

SHAPES = Path(__file__).parents[1] / "memory" / "shapes"
SMALL = {"model_type": "qwen3_moe", "hidden_size": 256, "moe_intermediate_size": 96, "num_experts": 32}
SMALL |= {
    "num_experts_per_tok": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
}
WAYS = {"grouped": "tanren_grouped", "merged, grouped product": "grouped_mm", "merged, loop": "eager"}
ALONE = "grouped, no adapters on experts"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
REPEATS = 7
GIB = 2**30


def main() -> int:
    """Measure all ways, write them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="qwen3-30b-a3b", help="a file of benchmarks/memory/shapes, or small")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--ways", nargs="+", default=[*WAYS, ALONE], help="some of them only")
    parser.add_argument("--profile", action="store_true", help="where the GPU's time goes in the first way")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = (
        SMALL if arguments.shape == "small" else json.loads((SHAPES / f"{arguments.shape}.json").read_text("utf-8"))
    )
    config = shape_of(arguments.shape, values | {"num_hidden_layers": arguments.layers, "layer_types": None}).config
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    found: dict[str, dict[str, Any]] = {}
    for way in arguments.ways:
        found[way] = _measured(config, way, arguments.tokens, device, profile=arguments.profile and not found)
        sys.stdout.write(_line(way, found[way]) + "\n")
        sys.stdout.flush()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    facts = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "shape": arguments.shape}
    facts |= {"layers": arguments.layers, "tokens": arguments.tokens, "tflop": _teraflop(config, arguments.tokens)}
    arguments.out.write_text(json.dumps(facts | {"ways": found}, indent=1) + "\n", encoding="utf-8")
    return 0


def _measured(config: PreTrainedConfig, way: str, tokens: int, device: str, *, profile: bool) -> dict[str, Any]:
    try:
        return _measure(config, way, tokens, device, profile=profile)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _measure(config: PreTrainedConfig, way: str, tokens: int, device: str, *, profile: bool) -> dict[str, Any]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(1)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.set_attn_implementation(registered_name("varlen" if device == "cuda" else "sdpa"))
        lora = LoraConfig(rank=8, alpha=16, target_modules=ATTENTION, target_parameters=[] if way == ALONE else EXPERTS)
        model = attach_adapter(model, lora).train()
        ids = torch.randint(0, config.vocab_size, (1, tokens))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.01)
    base = model.get_base_model()
    facts: dict[str, Any] = {}
    if way in ("grouped", ALONE):
        choice = choose_experts(model, "grouped")
        assert choice is not None
        facts["proof"] = choice.why
    else:
        base.set_experts_implementation(WAYS[way])
    positions = torch.arange(tokens, device=device)[None]
    above = torch.randn(tokens, config.hidden_size, generator=generator).to(device, dtype)
    packing = packing_arguments([tokens], device)

    def forward() -> torch.Tensor:
        hidden = base.base_model(input_ids=ids, position_ids=positions, use_cache=False, **packing).last_hidden_state
        result: torch.Tensor = hidden[0]
        return result

    def both() -> None:
        forward().backward(above)
        for weight in model.parameters():
            weight.grad = None

    with torch.no_grad():
        facts["hidden_norm"] = float(forward().float().norm())
    facts |= {"forward_ms": _least(forward, device), "forward_backward_ms": _least(both, device)}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        facts |= {"weights_gib": round(before / GIB, 3), "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 3)}
    if profile:
        _profile(both, device)
    return facts


def _least(run: Callable[[], Any], device: str) -> float:
    """Milliseconds."""
    times = []
    for index in range(REPEATS + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if index >= 2:
            times.append(1e3 * (time.perf_counter() - begun))
    return round(min(times), 2)


def _profile(run: Callable[[], Any], device: str) -> None:
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as made:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    sys.stdout.write(made.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=110) + "\n")


def _teraflop(config: Any, tokens: int) -> float:
    """Of the products with frozen experts, forward and backward to their inputs."""
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    rows = tokens * config.num_experts_per_tok * config.num_hidden_layers
    flop: int = 2 * 2 * rows * 3 * width * config.hidden_size
    return round(flop / 1e12, 3)


def _line(way: str, facts: dict[str, Any]) -> str:
    if "out_of_memory" in facts:
        return f"{way:34s} out of memory"
    peak = f"{facts['peak_gib']:7.2f} GiB ({facts['weights_gib']:.2f} before)" if "peak_gib" in facts else ""
    times = f"{facts['forward_ms']:9.1f} ms forward {facts['forward_backward_ms']:9.1f} ms with backward"
    return f"{way:34s}{times} {peak}"


if __name__ == "__main__":
    sys.exit(main())
