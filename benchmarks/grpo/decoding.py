"""Generation for training on a CPU: what a step's completions take as the library computes them, and as train-grpo does.

    python -m benchmarks.grpo.decoding benchmarks/grpo/decoding-cpu.json [--repeats 3]

SmolLM2-135M with a fresh adapter on all projections: 4 prompts of the GRPO quickstart with 6 completions of 40 tokens, none of
which ends early. Every way takes its turn in each repeat; the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from tanren.common.adapter import attach_lora
from tanren.common.attention.decoding import grouped_attention
from tanren.common.attention.packed import inference_attention
from tanren.common.bare_adapters import bare_adapters
from tanren.common.chat import render_prompt
from tanren.common.completions import Sampling
from tanren.common.config import LoraConfig, ModelConfig
from tanren.common.models.decoding import full_head
from tanren.common.models.device import plan_device
from tanren.common.models.load import load_model, load_tokenizer
from tanren.common.models.source import resolve_source
from tanren.common.task_packs import load_pack
from tanren.grpo import transformers_engine
from tanren.grpo.transformers_engine import TransformersEngine

MODEL = "builtin:smollm2-135m"
PROMPTS, COMPLETIONS, NEW_TOKENS = 4, 6, 40
OPTIONS = {"kinds": ["generation"], "formats": ["json"], "size": "tiny", "strings": "plain"}


def _multinomial(shares: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.multinomial(shares, 1, generator=generator)


Context = Callable[[Any], AbstractContextManager[Any]]
OURS = transformers_engine._places
WAYS: dict[str, tuple[list[Context], Any]] = {
    "the library's layers and torch's draws": ([], _multinomial),
    "one random number a row": ([], OURS),
    "and LoRA's products alone": ([bare_adapters], OURS),
    "and one product for heads that share keys": ([bare_adapters, grouped_attention], OURS),
}


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    source, plan = resolve_source(MODEL), plan_device(ModelConfig(name=MODEL, device="cpu"))
    model = attach_lora(load_model(source, plan, "none"), LoraConfig(rank=16, alpha=32), seed=0)
    tokenizer = load_tokenizer(source)
    rows = load_pack("structured", OPTIONS).rows("train")[:PROMPTS]
    prompts = [tokenizer(render_prompt(tokenizer, row.prompt), add_special_tokens=False)["input_ids"] for row in rows]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(arguments.repeats):
        for name, (contexts, places) in WAYS.items():
            seconds[name].append(_time(model, prompts, contexts, places))
    values = {
        "machine": {"cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "dtype": str(plan.dtype),
        "seconds": {name: round(statistics.median(found), 2) for name, found in seconds.items()},
        "every_repeat": {name: [round(one, 2) for one in found] for name, found in seconds.items()},
    }
    arguments.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(values, indent=1) + "\n")
    return 0


def _time(model: Any, prompts: list[list[int]], contexts: list[Context], places: Any) -> float:
    """Return the seconds of one step's completions."""

    @contextmanager
    def decoding(model: Any) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            every: list[Context] = [inference_attention, full_head, *contexts]
            for context in every:
                stack.enter_context(context(model))
            yield

    vars(transformers_engine).update(decoding=decoding, _places=places)
    engine = TransformersEngine(model.eval(), batch_size=64, padding=0, seed=0)
    begun = time.perf_counter()
    engine.generate(prompts, COMPLETIONS, Sampling(NEW_TOKENS))
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
