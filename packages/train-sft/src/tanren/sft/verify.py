"""`--resume RUN --verify`: proves on this machine that resuming a run is bit for bit (common/resuming_proof.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.console import Console
from tanren.common.ground import check_same_config, check_same_ground
from tanren.common.interruption import Interruption
from tanren.common.resuming_proof import Numbers, Resumable, find_checkpointed, prove_resuming
from tanren.common.run import RunDirectory, read_steps
from tanren.common.tracking import NoTracker
from tanren.sft.ground import MAY_DIFFER_ON_RESUME, SAME_ON_RESUME, describe_ground
from tanren.sft.memory import Settled, take_recorded
from tanren.sft.prepare import Prepared, prepare

if TYPE_CHECKING:
    from tanren.sft.plan import Plan

COMPARED = ("loss", "grad_norm", "lr")
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def run_verify(plan: Plan, which: str) -> int:
    """Compare a resumed piece of a run with a straight one, and both with the run; return 0 if all is equal, 1 if not.

    Raises UserError if the run has no checkpoint to begin at, or is not the recipe's.
    """
    console = Console()
    run = find_checkpointed(which, plan.config.output.runs, plan.config.name)
    plan = take_recorded(plan, run)
    check_same_config(plan.loaded.values(), run, MAY_DIFFER_ON_RESUME)
    prepared = prepare(plan, console)
    steps, alone = plan.steps(prepared.samples.sizes), _alone(plan)
    prepared = replace(prepared, validation=[])

    def train(folder: RunDirectory, checkpoint: Path, until: int, own: Console) -> None:
        _train(folder, checkpoint, until, alone, prepared, run, own)

    return prove_resuming(Resumable(run, steps, train, _numbers, STATE_FILES, _read_state), console)


def _numbers(run: RunDirectory) -> Numbers:
    return {event["step"]: {name: event[name] for name in COMPARED} for event in read_steps(run.metrics)}


def _alone(plan: Plan) -> Plan:
    """Return the plan with nothing but the steps: what is done beside them changes no number."""
    off = {"checkpoint.every_steps": 0, "checkpoint.keep": 2, "checkpoint.keep_best": False, "train.log_every": 1}
    off |= {"validation.every_steps": 0, "evaluation.every_steps": 0}
    return replace(plan, loaded=plan.loaded.with_values(off, "verify"))


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
    from tanren.sft.loop import make_trainer, train
    from tanren.sft.method import choose_attention, load_base, make_trainable

    loaded = load_base(plan, prepared.device, prepared.samples, own)
    attention = choose_attention(plan, loaded, own)
    template = template_hash(prepared.tokenizer)
    check_same_ground(run, describe_ground(plan, prepared, attention, loaded, template), own, SAME_ON_RESUME)
    model, trainer_class = make_trainable(plan, loaded, own)
    trainer = make_trainer(
        trainer_class,
        plan,
        prepared,
        model,
        folder,
        own,
        NoTracker(),
        Interruption(),
        packs=attention.packs,
        until=until,
    )
    train(trainer, Settled(plan, None), own, checkpoint, probe=False)


def _read_state(path: Path) -> Any:
    import torch
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        return torch.load(path, weights_only=True, map_location="cpu")
