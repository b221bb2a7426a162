"""Seconds of a GRPO step, side by side: train-grpo as users start it, and TRL with vLLM, in the same run.

    python -m benchmarks.grpo.measure OUT.json [--only NAME ...] [--steps 8]

Needs a CUDA device, vLLM, and for the peer trl and liger-kernel. Each contender runs in a process of its own on the same saved
model (Qwen3-4B's shape, random weights) and the same prompts: 4 of 800 tokens, 16 completions of 512 tokens each. The first steps
are not counted: they compile. What fails is a result as well.
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

from benchmarks.grpo.peers import SETTINGS, WARM_UP
from benchmarks.grpo.work import ALPHA, COMPLETIONS, LR, NEW_TOKENS, PROMPTS_PER_STEP, RANK, REWARD, write_prompts
from benchmarks.sft.measure import device_name, run
from benchmarks.sft.work import PROJECTIONS

OURS: dict[str, list[str]] = {
    "tanren": ["--vllm.sleep-level", "0"],
    "tanren-sleep": ["--vllm.sleep-level", "2"],
    "tanren-sleep-1": ["--vllm.sleep-level", "1"],
}
PEERS = tuple(SETTINGS)
PARTS = ("generate", "sync", "reward", "score", "train", "other")


def main() -> int:
    """Run the contenders and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=["tanren", "trl", "tanren-sleep", "trl-sleep"], help="these")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shape", default="qwen3-4b")
    parser.add_argument("--micro-batch-tokens", default="16384")
    parser.add_argument("--model", type=Path, help="a folder for the model: used if it is there, else written and kept")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        prompts, folder = scratch / "prompts.jsonl", (arguments.model or scratch / "model").resolve()
        write_prompts(prompts, PROMPTS_PER_STEP * (arguments.steps + 1))
        (scratch / "reward.py").write_text(REWARD, encoding="utf-8")
        written = f"from pathlib import Path; from benchmarks.grpo.work import write_model; write_model(Path({str(folder)!r}), {arguments.shape!r})"
        if not folder.is_dir():
            run([sys.executable, "-c", written])
        for contender in arguments.only:
            begun = time.time()
            try:
                found = measure(contender, scratch, folder, arguments.steps, arguments.micro_batch_tokens)
            except subprocess.CalledProcessError as error:
                found = {"fault": ((error.stderr or "") + (error.stdout or "")).strip()[-1500:]}
            results[contender] = found | {"process_seconds": round(time.time() - begun, 1)}
            sys.stderr.write(f"{contender}: {json.dumps(results[contender])}\n")
            values = {"device": device_name(), "shape": arguments.shape, "contenders": results}
            arguments.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(table(results)) + "\n")
    return 0


def measure(name: str, scratch: Path, folder: Path, steps: int, tokens: str) -> dict[str, Any]:
    """Run one contender on the model in `folder`; return its seconds per step."""
    prompts = scratch / "prompts.jsonl"
    if name in PEERS:
        done = run([sys.executable, "-m", "benchmarks.grpo.peers", name, str(folder), str(prompts), str(steps)])
        line = next(line for line in done.splitlines() if line.startswith("RESULT "))
        found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
        return found
    out = scratch / f"run-{name}"
    recipe = scratch / "recipe.toml"
    reward = f'[[rewards]]\nkind = "function"\nfunction = "{scratch / "reward.py"}:reward"\n'
    recipe.write_text(f'name = "speed"\n[evaluation]\nenabled = false\n{reward}', encoding="utf-8")
    flags = {
        "--model.name": folder, "--data.file": prompts, "--lora.rank": RANK, "--lora.alpha": ALPHA, "--optim.lr": LR,
        "--rollout.prompts-per-step": PROMPTS_PER_STEP, "--rollout.completions-per-prompt": COMPLETIONS,
        "--rollout.max-new-tokens": NEW_TOKENS, "--train.steps": steps, "--train.micro-batch-tokens": tokens,
        "--checkpoint.every-steps": 0, "--output.run-dir": out, "--output.runs": scratch,
    }  # fmt: skip
    listed = [*(str(part) for pair in flags.items() for part in pair), *OURS[name]]
    tracked = importlib.util.find_spec("mlflow") is not None  # on, as for users, where it is installed
    listed += [*([] if tracked else ["--tracking.no-mlflow"]), "--lora.target-modules", *PROJECTIONS]
    run([sys.executable, "-c", "from tanren.grpo.cli import main; main()", str(recipe), *listed])
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    counted = [event for event in events if event["kind"] == "step"][WARM_UP:]
    lines = (out / "log.txt").read_text(encoding="utf-8").splitlines()
    told = ("layers:", "attention:", "engine:", "vLLM")
    return {
        "seconds_each": [round(step["seconds"], 3) for step in counted],
        "seconds_per_step": sum(step["seconds"] for step in counted) / len(counted),
        "parts": {part: round(sum(step[f"seconds_{part}"] for step in counted) / len(counted), 3) for part in PARTS},
        "completion_length": sum(step["completion_length"] for step in counted) / len(counted),
        "log_prob_gap": [step["log_prob_gap"] for step in counted],
        "log_prob_gap_kl": [step["log_prob_gap_kl"] for step in counted],
        "seconds_by_phase": json.loads((out / "summary.json").read_text(encoding="utf-8"))["seconds_by_phase"],
        "steps": len(counted),
        "said": [line for line in lines if any(words in line for words in told)],
        "mlflow": tracked,
    }


def table(results: dict[str, Any]) -> list[str]:
    """Return a line for each contender."""
    lines = [f"{'contender':<18}{'s/step':>8}   parts"]
    for name, found in results.items():
        if "fault" in found:
            lines.append(f"{name:<18}  {found['fault'][-300:]}")
        else:
            parts = "  ".join(f"{part} {spent:.2f}" for part, spent in found.get("parts", {}).items())
            lines.append(f"{name:<18}{found['seconds_per_step']:>8.2f}   {parts}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
