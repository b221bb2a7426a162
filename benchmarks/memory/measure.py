"""Predicted against measured memory of training steps: `python benchmarks/memory/measure.py OUT.json [--shapes NAME ...]`.

Random models of real shapes are built on the GPU; each case runs a few real optimizer steps of train-sft's trainer. A case
that runs out of memory is a result as well. About five minutes on an H100. `--tiny` runs the same on the CPU with tiny
models: it shows that the script works, and its memory is not comparable.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tanren.common.models.device import set_cuda_variables

set_cuda_variables()  # read when CUDA starts

import torch
from transformers import AutoModelForCausalLM

from tanren.common.chat import Sample
from tanren.common.config import Loaded
from tanren.common.console import Console
from tanren.common.interruption import Interruption
from tanren.common.models.source import ModelSource
from tanren.common.models.tiny import tiny_tokenizer
from tanren.common.plan import Choice, Prediction, Target, find_target, predict
from tanren.common.plan.packed import attention_of
from tanren.common.plan.trace import Shape, empty_model, shape_of
from tanren.common.run import MetricsWriter, RunDirectory, read_steps
from tanren.common.tracking import NoTracker
from tanren.sft.config import SftConfig
from tanren.sft.full import FullTrainer
from tanren.sft.packing import Steps
from tanren.sft.plan import Plan
from tanren.sft.planner import SftJob
from tanren.sft.rows import Selection
from tanren.sft.store import TrainingSamples
from tanren.sft.trainer import SftTrainer

SHAPES = Path(__file__).parent / "shapes"
STEPS = 3
ATTENTION_ONLY = ["q_proj", "k_proj", "v_proj", "o_proj"]
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    shape: str
    method: str
    """lora (all linear layers), lora-attention, or full."""
    checkpointing: str
    tokens: int
    """Of a micro-batch."""


CASES = [
    *(
        Case("qwen3-0.6b", "lora", c, t)
        for c, t in (("none", 2048), ("none", 8192), ("selective", 8192), ("full", 8192), ("full", 16384))
    ),
    *(Case("qwen3-0.6b", "full", c, 8192) for c in ("none", "full")),
    *(
        Case("qwen3-4b", "lora", c, t)
        for c, t in (("none", 2048), ("none", 8192), ("selective", 8192), ("full", 8192), ("full", 16384))
    ),
    Case("qwen3-30b-a3b", "lora", "none", 2048),
    *(Case("qwen3-30b-a3b", "lora", c, 8192) for c in ("selective", "full")),
    *(Case("qwen3-30b-a3b", "lora-attention", c, 8192) for c in ("none", "selective", "full")),
    *(
        Case("gpt-oss-20b", "lora-attention", c, t)
        for c, t in (("none", 2048), ("selective", 8192), ("full", 8192), ("full", 16384))
    ),
]
# So that weights and a step fit into 80 GB; the other shapes have all their layers.
LAYERS = {"qwen3-30b-a3b": 12}


class EqualSteps(SftJob):
    """Every step is the one that has most micro-batches."""

    def steps(self, choice: Choice) -> Steps:
        """Return the same step several times."""
        steps = super().steps(choice)
        largest = max((steps.members(index) for index in range(len(steps))), key=len)
        return Steps(steps.samples, [largest] * STEPS)


def main() -> int:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shapes", nargs="*", help="only these")
    parser.add_argument("--tiny", action="store_true", help="two layers of 64, on the CPU")
    arguments = parser.parse_args()
    device = "cpu" if arguments.tiny else "cuda"
    target = find_target(None, None, device)
    results: list[dict[str, Any]] = []
    begun = time.time()
    for name in dict.fromkeys(case.shape for case in CASES):
        if not arguments.shapes or name in arguments.shapes:
            measure_shape(name, target, device, results, tiny=arguments.tiny)
            write(arguments.out, results, target)
    sys.stdout.write("\n".join(table(results)) + f"\n{time.time() - begun:.0f} s\n")
    return 0


def measure_shape(name: str, target: Target, device: str, results: list[dict[str, Any]], *, tiny: bool) -> None:
    """Build the model of a shape once and run its cases, those that train all parameters last."""
    values = json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8"))
    if name in LAYERS:
        values["num_hidden_layers"] = LAYERS[name]
    if tiny:
        values |= {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "vocab_size": 512,
            "head_dim": 16,
        }
        values |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        values |= {key: 4 for key in ("num_experts", "num_local_experts") if key in values}
        values |= {key: 2 for key in ("num_experts_per_tok",) if key in values}
        values |= {key: 64 for key in ("moe_intermediate_size",) if key in values}
    shape = shape_of(name, values)
    begun = time.time()
    try:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(shape.config, dtype=torch.bfloat16)
    except torch.OutOfMemoryError as error:
        results += [asdict(case) | {"fault": f"the model: {first_line(error)}"} for case in CASES if case.shape == name]
        return
    sys.stderr.write(f"{name}: built in {time.time() - begun:.1f} s\n")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    del model
    cases = [replace(case, tokens=case.tokens // (16 if tiny else 1)) for case in CASES if case.shape == name]
    for case in sorted(cases, key=lambda case: case.method == "full"):
        found = asdict(case)
        results.append(found)
        job = job_of(case, shape, target)
        try:
            prediction = predict(job, job.choice, target)
            found |= predicted(prediction)
            found |= measured(job, with_tensors(shape, tensors), device)
        except torch.OutOfMemoryError as error:
            found["fault"] = first_line(error)
        except Exception as error:  # noqa: BLE001 (a case that fails is a result; the next goes on)
            found["fault"] = f"{type(error).__name__}: {first_line(error)}"
        sys.stderr.write(json.dumps(found) + "\n")
    tensors.clear()
    release()


def job_of(case: Case, shape: Shape, target: Target) -> SftJob:
    """Return the case as a recipe: three equal steps of some micro-batches, samples of 1,000 to 2,000 tokens, half of them learned.

    Equal ones, so that the largest micro-batch meets the optimizer's states, which the first step makes at its end.
    """
    longest = min(2000, case.tokens)
    generator = random.Random(7)  # noqa: S311 (lengths, not secrets)
    samples = []
    for index in range(4 * case.tokens // longest * STEPS):
        length = generator.randint(longest // 2, longest)
        tokens = [generator.randrange(100) for _ in range(length)]
        samples.append(Sample(str(index), tokens, [position >= length // 2 for position in range(length)], ""))
    config = SftConfig.model_validate(
        {
            "lora": {"target_modules": ATTENTION_ONLY if case.method == "lora-attention" else "all-linear"},
            "train": {
                "micro_batch_tokens": case.tokens,
                "gradient_checkpointing": case.checkpointing,
                "max_steps": STEPS,
                "rows_per_step": max(1, 8 * case.tokens // (3 * longest)),
                "method": "full" if case.method == "full" else "lora",
            },
            "checkpoint": {"every_steps": 0},
        }
    )
    source = ModelSource(case.shape, "folder", "")
    plan = Plan(Loaded(config, {}, None), source, None, Selection(), [])
    attention = attention_of(config.train.attention, shape, torch.bfloat16, target)
    return EqualSteps(shape, torch.bfloat16, attention, plan, TrainingSamples.of(samples), method=config.train.method)


def predicted(prediction: Prediction) -> dict[str, Any]:
    """Return what the planner says."""
    return {
        "samples": len(prediction.layout.largest.lengths),
        "largest_tokens": prediction.tokens,
        "micro_batches": list(prediction.layout.micro_batches),
        "predicted": prediction.allocated,
        "predicted_needed": prediction.needed,
        "predicted_components": dict(prediction.components),
        "predicted_seconds": prediction.total_seconds / prediction.layout.steps,
        "predicted_limits": dict(prediction.seconds),
        "operations": sum(prediction.trace.operations.values()),
        "flops": prediction.trace.flops,
        "trace_seconds": prediction.trace.seconds,
    }


def measured(job: SftJob, model: Any, device: str) -> dict[str, Any]:
    """Run the steps with the real trainer; return peaks in bytes and seconds a step."""
    cuda = device == "cuda"
    release()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    steps = job.steps(job.choice)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        console = Console(stream=io.StringIO())
        metrics = MetricsWriter(run.metrics)
        console.attach(metrics)
        trainer_class = FullTrainer if job.method == "full" else SftTrainer
        trainer = trainer_class(
            model=job.prepare(model),
            tokenizer=tiny_tokenizer(),  # only the dump of a run that went wrong would be decoded with it
            steps=steps,
            config=job.plan.config,
            run=run,
            console=console,
            tracker=NoTracker(),
            interruption=Interruption(),
            device=device,
        )
        torch.use_deterministic_algorithms(True)
        trainer.step_log.start_clock()
        try:
            trainer.train()
        finally:
            torch.use_deterministic_algorithms(False)
            metrics.close()
        seconds = [step["seconds"] for step in read_steps(run.metrics)]
    tokens = [step.tokens for step in steps]
    found: dict[str, Any] = {
        "attention": job.attention,
        "seconds": statistics.median(seconds[1:]),
        "first_seconds": seconds[0],
        "step_tokens": statistics.mean(tokens),
    }
    if cuda:
        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.memory_reserved()
        found |= {
            "measured": torch.cuda.max_memory_allocated(),
            "measured_reserved": torch.cuda.max_memory_reserved(),
            "outside_torch": total - free - reserved,
            "before": torch.cuda.memory_stats()["allocated_bytes.all.current"],
        }
    return found


def with_tensors(shape: Shape, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return a fresh model of the shape that holds these tensors: nothing of an earlier case is left in it."""
    model = empty_model(shape, torch.bfloat16)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(tensor, torch.nn.Parameter):
            module.register_parameter(leaf, torch.nn.Parameter(tensor.detach(), requires_grad=False))
        else:
            setattr(module, leaf, tensor)
    model.tie_weights()
    return model


def release() -> None:
    """Give back what nothing holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Return the beginning of an error's text."""
    return str(error).strip().split("\n", 1)[0][:300]


def write(path: Path, results: list[dict[str, Any]], target: Target) -> None:
    """Write the results."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    ceilings = asdict(target.ceilings)
    values = {"device": device, "torch": torch.__version__, "ceilings": ceilings, "cases": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return predicted, measured and ratio of each case."""
    lines = [
        f"{'shape':<16}{'method':<16}{'checkpoint':<11}{'tokens':>7}{'predicted':>11}{'measured':>10}{'ratio':>7}{'reserved':>10}{'s/step':>9}{'said':>8}"
    ]
    for case in results:
        head = f"{case['shape']:<16}{case['method']:<16}{case['checkpointing']:<11}{case['tokens']:>7}"
        if "predicted" in case:
            head += f"{case['predicted'] / GIB:>11.2f}"
        if "measured" in case:
            ratio = case["predicted"] / case["measured"]
            head += f"{case['measured'] / GIB:>10.2f}{ratio:>7.3f}{case['measured_reserved'] / GIB:>10.2f}"
        if "seconds" in case:
            head += f"{case['seconds']:>9.3f}{case['predicted_seconds']:>8.3f}"
        lines.append(head + (f"  {case['fault']}" if "fault" in case else ""))
    return lines


if __name__ == "__main__":
    sys.exit(main())
