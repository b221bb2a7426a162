"""Proves on this machine that resuming a run is bit for bit: some of its steps straight, and again with a stop in between.

    checkpoint -> straight to the end
    checkpoint -> a stop in the middle -> resumed to the end      the same steps, the same state; also as the run had them

Nothing is written into the run; the two small runs live in a folder that is deleted at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.ground import check_same_config, check_same_ground
from tanren.common.interruption import Interruption
from tanren.common.run import MetricsWriter, RunDirectory, open_run, read_steps
from tanren.common.tracking import NoTracker
from tanren.sft.ground import MAY_DIFFER_ON_RESUME, SAME_ON_RESUME, describe_ground
from tanren.sft.memory import Settled, take_recorded
from tanren.sft.prepare import Prepared, prepare

if TYPE_CHECKING:
    from tanren.sft.plan import Plan

# Enough for a stop in between with steps on both sides; each costs what a step of the run costs, twice.
STEPS = 4
# So far it goes to meet the run's next checkpoint, whose whole state can be compared as well.
MOST_STEPS = 20
COMPARED = ("loss", "grad_norm", "lr")
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def run_verify(plan: Plan, which: str) -> int:
    """Compare a resumed piece of a run with a straight one, and both with the run; return 0 if all is equal, 1 if not.

    Raises UserError if the run has no checkpoint to begin at, or is not the recipe's.
    """
    console = Console()
    run = _find(which, plan)
    plan = take_recorded(plan, run)
    check_same_config(plan.loaded.values(), run, MAY_DIFFER_ON_RESUME)
    prepared = prepare(plan, console)
    start, stop, end = _span(run, plan.steps(prepared.samples.sizes))
    console.line(
        f"verify {run.path}: from its checkpoint after step {start} to step {end}, straight and with a stop after {stop}"
    )
    plan = _alone(plan)
    prepared = replace(prepared, validation=[])
    with tempfile.TemporaryDirectory(prefix="tanren-verify-") as scratch:
        folders = [RunDirectory(Path(scratch, name)) for name in ("straight", "stopped")]
        straight, stopped = folders
        _train(straight, run.checkpoint(start), end, plan, prepared, run, console)
        _train(stopped, run.checkpoint(start), stop, plan, prepared, run, console)
        _train(stopped, stopped.checkpoint(stop), end, plan, prepared, run, console)
        differences = [
            *_compare("stopped and resumed", stopped, "straight", straight, range(start + 1, end + 1), console),
            *_compare("straight", straight, "the run itself", run, range(start + 1, end + 1), console),
        ]
    if differences:
        console.line(f"different: {differences[0]}")
        console.line(f"resuming {run.path} on this machine is NOT bit for bit ({len(differences)} differences)")
        return ExitCode.FOUND_WANTING
    console.line(f"equal: resuming {run.path} on this machine is bit for bit, as far as these steps show")
    return ExitCode.DONE


def _find(which: str, plan: Plan) -> RunDirectory:
    """Find the run; unlike for resuming, it may be finished."""
    config = plan.config
    run = (
        open_run(which, config.output.runs, config.name)
        if which == "latest"
        else RunDirectory(Path(which).expanduser())
    )
    if not run.config.is_file():
        raise UserError(f"{which}: no run there (no config.toml); name a run directory or 'latest'")
    if not run.checkpoint_steps():
        raise UserError(f"{run.path} has no checkpoint: nothing of it can be resumed; set checkpoint.every_steps")
    return run


def _span(run: RunDirectory, steps: int) -> tuple[int, int, int]:
    """Return the step to start behind, the one to stop after, and the last one."""
    kept = run.checkpoint_steps()
    start = kept[0]
    if start + 2 > steps:
        raise UserError(
            f"{run.path}: behind its earliest kept checkpoint (step {start} of {steps}) fewer than two steps are left, so there "
            "is nothing to stop in between; keep an earlier one (checkpoint.every_steps, checkpoint.keep)"
        )
    end = min(start + STEPS, steps)
    if len(kept) > 1 and end < kept[1] <= start + MOST_STEPS:
        end = kept[1]
    return start, (start + end) // 2, end


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
    console: Console,
) -> None:
    """Train in `folder` from a checkpoint up to a step, on a model that is loaded anew."""
    from tanren.common.chat import template_hash
    from tanren.sft.loop import make_trainer, train
    from tanren.sft.method import choose_attention, load_base, make_trainable

    folder.path.mkdir(exist_ok=True)
    console.line(f"{folder.path.name}: from {checkpoint.name} to step {until}")
    own = Console(stream=console.stream, started=console.started)
    metrics = MetricsWriter(folder.metrics)
    own.attach(metrics)
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
    metrics.close()


def _compare(
    name: str, one: RunDirectory, other_name: str, other: RunDirectory, steps: range, console: Console
) -> list[str]:
    """Return what differs: numbers of the steps that both have recorded, and the state of checkpoints that both have."""
    between = f"{name} / {other_name}"
    first, second = (
        {event["step"]: event for event in read_steps(run.metrics) if event["step"] in steps} for run in (one, other)
    )
    both = [step for step in steps if step in first and step in second]
    each = len(second) == len(steps)  # else the run has logged means over several steps
    differences = [
        f"{between}: {key} of step {step}: {first[step][key]!r} and {second[step][key]!r}"
        for step in (both if each else [])
        for key in COMPARED
        if first[step][key] != second[step][key]
    ]
    if each:
        console.line(f"{between}: {', '.join(COMPARED)} of steps {both[0]} to {both[-1]}: {_verdict(differences)}")
    else:
        console.line(f"{between}: the run has not logged each of these steps, so their numbers are not compared")
    for step in steps:
        if one.checkpoint(step).is_dir() and other.checkpoint(step).is_dir():
            found = [f"{between}: step {step}: {told}" for told in _state(one.checkpoint(step), other.checkpoint(step))]
            console.line(f"{between}: weights, optimizer, rate and random states after step {step}: {_verdict(found)}")
            differences += found
    return differences


def _state(one: Path, other: Path) -> list[str]:
    """Return what differs between two checkpoints."""
    names = [*sorted(path.name for path in other.glob("*.safetensors")), *STATE_FILES]
    found = []
    for name in names:
        if not (one / name).is_file() or not (other / name).is_file():
            found.append(f"{name} is missing in one of them")
        else:
            found += [f"{name}: {told}" for told in differing(_load(one / name), _load(other / name))]
    return found


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        return torch.load(path, weights_only=True, map_location="cpu")


def differing(one: Any, other: Any, path: str = "") -> list[str]:
    """Return where two nested values of a checkpoint differ in any bit."""
    import torch

    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return [told for key in one for told in differing(one[key], other[key], f"{path}.{key}".lstrip("."))]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [told for index, (a, b) in pairs for told in differing(a, b, f"{path}.{index}".lstrip("."))]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return [f"{path} is {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"]
        bits = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)]
        if torch.equal(*bits):
            return []
        return [f"{path} differs by up to {(one.double() - other.double()).abs().max():.3g}"]
    same = (one == other).all() if hasattr(one, "dtype") else one == other
    return [] if same else [f"{path} is {one!r} and {other!r}"]


def _verdict(differences: list[str]) -> str:
    return f"{len(differences)} differ" if differences else "equal"
