"""Do fused layers learn as the library's do? The loss of 200 steps from one seed, beside the noise of bfloat16.

    python -m benchmarks.sft.curve OUT.json [--device cuda] [--steps 200] [--layers 8] [--rows-per-step 8]

A model of Qwen3-0.6B's shape with fewer layers and random weights, rows of the task pack `structured` byte by byte. Four runs
of the same steps: the library's layers, the library's with another attention kernel (what rounding alone does), fused ones, and
fused ones on frozen weights in fp8.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from tanren.common.models.device import set_cuda_variables

set_cuda_variables()  # read when CUDA starts

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.sft.work import SHAPES
from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample, make_sample
from tanren.common.config import Layers, LoraConfig
from tanren.common.fp8 import quantise_model
from tanren.common.fused import choose_route
from tanren.common.lora import attach_adapter
from tanren.common.models.tiny import tiny_tokenizer
from tanren.common.task_packs import load_pack
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch

ROWS = 160
COMPARED = ("noise", "fused", "fp8")


def main() -> int:
    """Run the four and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows-per-step", type=int, default=8)
    arguments = parser.parse_args()
    tokenizer, cuda = tiny_tokenizer(), arguments.device == "cuda"
    rows = load_pack("structured", {"train_rows": ROWS}).rows("train")
    once = [make_sample(tokenizer, row.messages, row.id, row.id) for row in rows]
    samples = [once[index % ROWS] for index in range(arguments.rows_per_step * arguments.steps)]
    kernel, other = ("flash_attention_4", "varlen") if cuda else ("sdpa", "eager")
    runs: dict[str, tuple[Layers, str, bool]] = {
        "plain": ("plain", kernel, False),
        "noise": ("plain", other, False),
        "fused": ("fused", kernel, False),
        "fp8": ("fused", kernel, True),
    }
    losses = {name: curve(samples, *way, arguments) for name, way in runs.items()}
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if cuda else "CPU", "steps": arguments.steps}
    for name in COMPARED:
        apart = [abs(one - two) for one, two in zip(losses[name], losses["plain"], strict=True)]
        found[name] = {"mean": statistics.mean(apart), "largest": max(apart), "last_20": statistics.mean(apart[-20:])}
    found["losses"] = losses
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    first, last = losses["plain"][0], statistics.mean(losses["plain"][-20:])
    sys.stdout.write(f"loss {first:.3f} -> {last:.3f}; apart from the library's layers, in nats a token:\n")
    for name in COMPARED:
        sys.stdout.write(f"{name:<6} mean {found[name]['mean']:.1e}, largest {found[name]['largest']:.1e}\n")
    return 0


def curve(samples: list[Sample], layers: Layers, kernel: str, in_fp8: bool, arguments: Any) -> list[float]:
    """Train from the seed; return each step's mean loss in nats."""
    values = json.loads((SHAPES / "qwen3-0.6b.json").read_text(encoding="utf-8"))
    values |= {"num_hidden_layers": arguments.layers, "vocab_size": 512}  # bytes and their special tokens fit
    torch.manual_seed(0)
    with torch.device(arguments.device):
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if in_fp8:
        quantise_model(model, arguments.device)
    model.set_attn_implementation(registered_name(kernel))
    torch.manual_seed(1)
    adapted = attach_adapter(model, LoraConfig(rank=16, alpha=32))
    adapted.train()
    choose_route(adapted, layers, "none", arguments.device)
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    losses = []
    for begin, end in pairwise(range(0, len(samples) + 1, arguments.rows_per_step)):
        micro_batch = MicroBatch(tuple(samples[begin:end]))
        supervised = sum(sample.supervised for sample in micro_batch.samples)
        loss = packed_loss(adapted, micro_batch, arguments.device) / supervised
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


if __name__ == "__main__":
    sys.exit(main())
