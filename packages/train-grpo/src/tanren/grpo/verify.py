"""`--resume RUN --verify`: proves on this machine that resuming a run is bit for bit (common/resuming_proof.py)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.ground import check_same_config, check_same_ground
from tanren.common.interruption import Interruption
from tanren.common.resuming_proof import Numbers, Resumable, find_checkpointed, prove_resuming
from tanren.common.run import RunDirectory, read_steps
from tanren.common.tracking import NoTracker
from tanren.grpo.generations import read_generations
from tanren.grpo.ground import MAY_DIFFER_ON_RESUME, SAME_ON_RESUME, describe_ground
from tanren.grpo.memory import take_recorded
from tanren.grpo.prepare import Prepared, make_loop, open_rewards, prepare
from tanren.grpo.state import OPTIMIZER, STATE

if TYPE_CHECKING:
    from tanren.grpo.plan import Plan

COMPARED = ("reward", "loss", "grad_norm", "lr")


def run_verify(plan: Plan, which: str) -> int:
    """Compare a resumed piece of a run with a straight one, and both with the run; return 0 if all is equal, 1 if not.

    Raises UserError if the run has no checkpoint to begin at, is not the recipe's, or has an engine that draws by states of its own.
    """
    console = Console()
    run = find_checkpointed(which, plan.config.output.runs, plan.config.name)
    plan = take_recorded(plan, run)
    check_same_config(plan.loaded.values(), run, MAY_DIFFER_ON_RESUME)
    prepared = prepare(plan, console)
    if prepared.engine.name == "vllm":
        raise UserError(
            "--verify: vLLM does not draw the same completions twice; what can be resumed bit for bit is a run of the engine transformers"
        )
    # What is done beside the steps changes no number.
    off = {"checkpoint.every_steps": 0, "checkpoint.keep": 2}
    alone = replace(plan, loaded=plan.loaded.with_values(off, "verify"))

    def train(folder: RunDirectory, checkpoint: Path, until: int, own: Console) -> None:
        _train(folder, checkpoint, until, alone, prepared, run, own)

    resumable = Resumable(run, plan.config.train.steps, train, _numbers, (OPTIMIZER, STATE), _read_state)
    return prove_resuming(resumable, console)


def _train(
    folder: RunDirectory,
    checkpoint: Path,
    until: int,
    plan: Plan,
    prepared: Prepared,
    run: RunDirectory,
    own: Console,
) -> None:
    """Train in `folder` from a checkpoint up to a step, on a model that is loaded anew."""
    from tanren.common.chat import template_hash
    from tanren.grpo.method import load_base, make_trainable

    if checkpoint.parent.parent != folder.path:
        shutil.copytree(checkpoint, folder.checkpoint(int(checkpoint.name.removeprefix("step-"))))
    loaded, attention = load_base(plan, prepared, own)
    template = template_hash(prepared.tokenizer)
    check_same_ground(run, describe_ground(plan, prepared, attention, loaded, template), own, SAME_ON_RESUME)
    model, shared = make_trainable(plan, prepared, loaded, attention, own)
    with open_rewards(plan, folder.path / "rewards.log") as rewards:
        loop = make_loop(
            plan,
            prepared,
            model,
            rewards,
            folder,
            own,
            NoTracker(),
            packs=attention.packs,
            shared=shared,
            until=until,
        )
        try:
            loop.train(Interruption(), resumed=True)
        finally:
            loop.engine.close()


def _numbers(run: RunDirectory) -> Numbers:
    """Return the numbers of each step, and a hash of its completions with what was found of them."""
    written: dict[int, Any] = defaultdict(hashlib.sha256)
    for line in read_generations(run.path):
        written[line["step"]].update(json.dumps(line, sort_keys=True).encode())
    return {
        event["step"]: {
            "completions": written[event["step"]].hexdigest(),
            **{name: event[name] for name in COMPARED},
        }
        for event in read_steps(run.metrics)
    }


def _read_state(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True, map_location="cpu")
