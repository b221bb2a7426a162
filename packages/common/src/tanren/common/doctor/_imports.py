"""Can the whole stack be imported? Each part in a process of its own, several at a time, each with a time limit."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tanren.common.doctor._child import Answer, run_all
from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._subject import Subject

# Module, and the names in it that load what the module itself puts off until it is asked.
CPU_STACK: dict[str, tuple[str, ...]] = {
    "torch": (),
    "transformers": ("Trainer", "AutoModelForCausalLM"),
    "trl": ("SFTTrainer", "GRPOTrainer"),
    "peft": (),
    "accelerate": (),
    "datasets": (),
    "gguf": (),
    "mlflow": (),
}
# Slowest first, so that no processor waits at the end for the last one.
GPU_STACK = {
    "vllm": ("LLM",),
    **CPU_STACK,
    "unsloth": (),
    "bitsandbytes": (),
    "liger_kernel": (),
    "flash_attn.cute": (),
    "triton": (),
    "torchvision": (),
    "torchaudio": (),
}
LIMIT = 300  # s an import: vLLM took 26 s alone, 75 s on two loaded cores; a cold network disk takes longer
AT_ONCE = 6  # an import of vLLM or TRL holds 1.2 GB
NEEDS_GPU = {"unsloth": "Unsloth cannot find any torch accelerator? You need a GPU."}
"""What a package says that is installed well and refuses to be imported without a GPU; without one, this is no fault."""

_ANSWER = "tanren-doctor-answer "
_CHILD = f"""
import importlib, sys, time
begun = time.perf_counter()
module = importlib.import_module(sys.argv[1])
for name in sys.argv[2:]:
    getattr(module, name)
print("\\n{_ANSWER}" + str(time.perf_counter() - begun), flush=True)
"""


def check_imports(subject: Subject) -> Iterator[Finding]:
    """Yield each import as it ends, with its seconds."""
    stack = CPU_STACK if subject.profile.cuda is None else GPU_STACK
    # -P: a file of the current folder is not taken for a package.
    commands = {name: [sys.executable, "-P", "-c", _CHILD, name, *names] for name, names in stack.items()}
    variables = {**subject.variables, "HF_HUB_OFFLINE": "1"}  # an import asks nothing of the network
    at_once = min(os.cpu_count() or 1, AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="tanren-doctor-") as folder:  # unsloth leaves a cache where it starts
        answers = run_all(commands, limit=LIMIT, at_once=at_once, variables=variables, folder=Path(folder))
        for name, answer in answers:
            yield _import_finding(subject, name, answer)


def _import_finding(subject: Subject, name: str, answer: Answer) -> Finding:
    what, needed, fix = f"import {name}", "no error", subject.run("sync --force")
    if answer.code is None:
        fix = f"look where it waits: python -X importtime -c 'import {name}'"
        return Finding(what, f"not done after {answer.seconds:.0f} s", needed, Verdict.REFUSED, fix)
    if (seconds := _seconds(answer)) is not None:
        return Finding(what, f"{seconds:.1f} s", needed, Verdict.OK)
    if not subject.wants_gpu and name in NEEDS_GPU and answer.last_line.endswith(NEEDS_GPU[name]):
        return Finding(what, "installed; needs a GPU (not asked for: --no-gpu)", needed, Verdict.OK)
    ended = f"ended by signal {-answer.code}" if answer.code < 0 else f"exit code {answer.code}"
    return Finding(what, answer.last_line or ended, needed, Verdict.REFUSED, fix)


def _seconds(answer: Answer) -> float | None:
    lines = [line for line in answer.text.splitlines() if line.startswith(_ANSWER)]
    return float(lines[-1].removeprefix(_ANSWER)) if lines and answer.code == 0 else None
