"""Speed of supervised fine-tuning, side by side: train-sft as users start it, and its peers, in the same run.

    python -m benchmarks.sft.measure OUT.json [--only NAME ...] [--steps 12]

Needs a CUDA device, and for the peers trl, liger-kernel and unsloth. Each contender runs in a process of its own on the same
saved model (Qwen3-4B's shape, random weights) and the same rows. Tokens are those that are not padding, all of them learned.
The first steps are not counted: they compile. What fails is a result as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.sft.work import ALPHA, LR, PROJECTIONS, RANK, ROWS_PER_STEP, lengths, write_rows

ROOT = Path(__file__).parent.parent.parent
WARM_UP = 3
LONG = 16_384
OURS: dict[str, list[str]] = {
    "tanren": ["--train.micro-batch-tokens", "16384"],
    "tanren-12k": ["--train.micro-batch-tokens", "12288"],
    "tanren-selective": ["--train.micro-batch-tokens", "16384", "--train.gradient-checkpointing", "selective"],
    "tanren-16gb": ["--train.micro-batch-tokens", "16384", "--train.gradient-checkpointing", "full"],
    "tanren-long": ["--train.micro-batch-tokens", str(LONG), "--data.max-tokens", str(LONG), "--train.rows-per-step", "1"],
    "tanren-nf4": ["--train.micro-batch-tokens", "16384", "--model.quantisation", "nf4"],
    "tanren-nf4-16gb": ["--train.micro-batch-tokens", "16384", "--model.quantisation", "nf4", "--train.gradient-checkpointing", "full"],
    "tanren-nf4-plain": ["--train.micro-batch-tokens", "8192", "--model.quantisation", "nf4", "--train.layers", "plain"],
    "tanren-fp8": ["--train.micro-batch-tokens", "16384", "--model.quantisation", "fp8"],
    "tanren-fp8-16gb": ["--train.micro-batch-tokens", "16384", "--model.quantisation", "fp8", "--train.gradient-checkpointing", "full"],
    "tanren-plain": ["--train.micro-batch-tokens", "8192", "--train.layers", "plain", "--train.gradient-checkpointing", "full"],
}  # fmt: skip
PEERS = ("trl-1x16", "trl-8x2-liger", "unsloth-8x2", "unsloth-packing", "unsloth-packing-4bit")


def main() -> int:
    """Run the contenders and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[*OURS, *PEERS], help="these contenders")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--shape", default="qwen3-4b")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, rows, long = (Path(scratch) / name for name in ("model", "rows.jsonl", "long.jsonl"))
        write_rows(rows, lengths(ROWS_PER_STEP * (arguments.steps + 1)))
        write_rows(long, [LONG] * (arguments.steps + 1))
        begun = time.time()
        in_process(f"write_model(Path({str(folder)!r}), {arguments.shape!r})")
        sys.stderr.write(f"model written in {time.time() - begun:.0f} s\n")
        for name in arguments.only:
            begun = time.time()
            try:
                found = ours(name, folder, long if name.endswith("long") else rows, arguments.steps, Path(scratch))
            except subprocess.CalledProcessError as error:
                found = {"fault": (error.stderr or "").strip()[-600:]}
            results[name] = found | {"process_seconds": round(time.time() - begun, 1)}
            sys.stderr.write(f"{name}: {json.dumps(results[name])}\n")
    values = {"device": device_name(), "shape": arguments.shape, "contenders": results}
    arguments.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(table(results)) + "\n")
    return 0


def ours(name: str, folder: Path, rows: Path, steps: int, scratch: Path) -> dict[str, Any]:
    """Run one contender; return tokens a second and the peak of memory."""
    if name in PEERS:
        done = run([sys.executable, "-m", "benchmarks.sft.peers", name, str(folder), str(rows), str(steps)])
        line = next(line for line in done.splitlines() if line.startswith("RESULT "))
        found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
        return found
    out = scratch / f"run-{name}"
    flags = {
        "--model.name": folder, "--data.file": rows, "--data.max-tokens": 2048, "--lora.rank": RANK, "--lora.alpha": ALPHA,
        "--optim.lr": LR, "--train.rows-per-step": ROWS_PER_STEP, "--train.max-steps": steps,
        "--checkpoint.every-steps": 0, "--output.run-dir": out, "--output.runs": scratch,
    }  # fmt: skip
    own = dict(zip(OURS[name][::2], OURS[name][1::2], strict=True))
    listed = [str(part) for pair in (flags | own).items() for part in pair]
    recipe = scratch / "recipe.toml"
    recipe.write_text('name = "speed"\n[evaluation]\nenabled = false\n', encoding="utf-8")
    command = [sys.executable, "-c", "from tanren.sft.cli import main; main()", str(recipe), *listed]
    tracked = importlib.util.find_spec("mlflow") is not None  # on, as for users, where it is installed
    run([*command, *([] if tracked else ["--tracking.no-mlflow"]), "--lora.target-modules", *PROJECTIONS])
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    counted = [event for event in events if event["kind"] == "step"][WARM_UP:]
    tokens, seconds = sum(step["tokens"] for step in counted), sum(step["seconds"] for step in counted)
    memory = json.loads((out / "summary.json").read_text())["training_memory"]
    told = ("layers:", "attention:", "fp8 costs")
    said = [line for line in (out / "log.txt").read_text().splitlines() if any(words in line for words in told)]
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_gib": memory.get("measured_gib"),
        "predicted_gib": memory.get("predicted_gib"),
        "steps": len(counted),
        "step_tokens": [step["tokens"] for step in counted],
        "step_seconds": [round(step["seconds"], 4) for step in counted],
        "said": said,
        "mlflow": tracked,
    }


def run(command: list[str]) -> str:
    """Run a process; return what it printed."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def in_process(code: str) -> None:
    """Do something with the GPU in a process that gives its memory back."""
    run([sys.executable, "-c", f"from pathlib import Path; from benchmarks.sft.work import write_model; {code}"])


def device_name() -> str:
    """Return the GPU's name."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return run(command).strip()


def table(results: dict[str, Any]) -> list[str]:
    """Return a line for each contender."""
    lines = [f"{'contender':<20}{'tok/s':>9}{'peak GiB':>10}"]
    for name, found in results.items():
        if "fault" in found:
            lines.append(f"{name:<20}  {found['fault'][-200:]}")
        else:
            lines.append(f"{name:<20}{found['tokens_per_second']:>9,.0f}{found['peak_gib']:>10.1f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
