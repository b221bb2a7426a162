"""Proves on this machine that resuming a run is bit for bit: some of its steps straight, and again with a stop in between.

    checkpoint -> straight to the end
    checkpoint -> a stop in the middle -> resumed to the end      the same steps, the same state; also as the run had them

Nothing is written into the run; the two small runs live in a folder that is deleted at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.run import MetricsWriter, RunDirectory, open_run

# Enough for a stop in between with steps on both sides; each costs what a step of the run costs, twice.
STEPS = 4
# So far it goes to meet the run's next checkpoint, whose whole state can be compared as well.
MOST_STEPS = 20
Numbers = Mapping[int, Mapping[str, Any]]
"""What must be equal, by step."""


@dataclass(frozen=True)
class Resumable:
    """A run that can be repeated piece by piece."""

    run: RunDirectory
    steps: int
    """Of the whole run."""
    train: Callable[[RunDirectory, Path, int, Console], None]
    """Trains in a folder from a checkpoint up to a step, on a model that is loaded anew, and leaves a checkpoint there.

    What the console records are the folder's metrics."""
    numbers: Callable[[RunDirectory], Numbers]
    """Of each step that a run has recorded."""
    state_files: Sequence[str]
    """Of a checkpoint, besides its weights."""
    read_state: Callable[[Path], Any]
    """Reads one of them: mappings, lists, tensors and plain values."""


def find_checkpointed(which: str, runs: Path, name: str) -> RunDirectory:
    """Return the run `latest` or a directory names; unlike for resuming, it may be finished. Raises UserError."""
    run = open_run(which, runs, name) if which == "latest" else RunDirectory(Path(which).expanduser())
    if not run.config.is_file():
        raise UserError(f"{which}: no run there (no config.toml); name a run directory or 'latest'")
    if not run.checkpoint_steps():
        raise UserError(f"{run.path} has no checkpoint: nothing of it can be resumed; set checkpoint.every_steps")
    return run


def prove_resuming(resumable: Resumable, console: Console) -> int:
    """Compare a resumed piece of a run with a straight one, and both with the run; return 0 if all is equal, 1 if not.

    Raises UserError where there is nothing to stop in between.
    """
    run = resumable.run
    start, stop, end = _span(run, resumable.steps)
    console.line(
        f"verify {run.path}: from its checkpoint after step {start} to step {end}, straight and with a stop after {stop}"
    )
    with tempfile.TemporaryDirectory(prefix="tanren-verify-") as scratch:
        folders = [RunDirectory(Path(scratch, name)) for name in ("straight", "stopped")]
        straight, stopped = folders
        for folder in folders:
            folder.path.mkdir()
        for folder, checkpoint, until in (
            (straight, run.checkpoint(start), end),
            (stopped, run.checkpoint(start), stop),
            (stopped, stopped.checkpoint(stop), end),
        ):
            console.line(f"{folder.path.name}: from {checkpoint.name} to step {until}")
            own, metrics = Console(stream=console.stream, started=console.started), MetricsWriter(folder.metrics)
            own.attach(metrics)
            resumable.train(folder, checkpoint, until, own)
            metrics.close()
        span = range(start + 1, end + 1)
        differences = [
            *_compare("stopped and resumed", stopped, "straight", straight, span, resumable, console),
            *_compare("straight", straight, "the run itself", run, span, resumable, console),
        ]
    if differences:
        console.line(f"different: {differences[0]}")
        console.line(f"resuming {run.path} on this machine is NOT bit for bit ({len(differences)} differences)")
        return ExitCode.FOUND_WANTING
    console.line(f"equal: resuming {run.path} on this machine is bit for bit, as far as these steps show")
    return ExitCode.DONE


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


def _compare(
    name: str,
    one: RunDirectory,
    other_name: str,
    other: RunDirectory,
    steps: range,
    resumable: Resumable,
    console: Console,
) -> list[str]:
    """Return what differs: numbers of the steps that both have recorded, and the state of checkpoints that both have."""
    between = f"{name} / {other_name}"
    first, second = (
        {step: numbers for step, numbers in resumable.numbers(run).items() if step in steps} for run in (one, other)
    )
    both = [step for step in steps if step in first and step in second]
    each = len(second) == len(steps)  # else the run has logged means over several steps
    differences = [
        f"{between}: {key} of step {step}: {first[step][key]!r} and {second[step][key]!r}"
        for step in (both if each else [])
        for key in first[step]
        if first[step][key] != second[step][key]
    ]
    if each:
        told = f"{', '.join(first[both[0]])} of steps {both[0]} to {both[-1]}"
        console.line(f"{between}: {told}: {_verdict(differences)}")
    else:
        console.line(f"{between}: the run has not logged each of these steps, so their numbers are not compared")
    for step in steps:
        if one.checkpoint(step).is_dir() and other.checkpoint(step).is_dir():
            unlike = _state(one.checkpoint(step), other.checkpoint(step), resumable)
            found = [f"{between}: step {step}: {told}" for told in unlike]
            console.line(f"{between}: weights, optimizer, rate and random states after step {step}: {_verdict(found)}")
            differences += found
    return differences


def _state(one: Path, other: Path, resumable: Resumable) -> list[str]:
    """Return what differs between two checkpoints."""
    names = [*sorted(path.name for path in other.glob("*.safetensors")), *resumable.state_files]
    found = []
    for name in names:
        if not (one / name).is_file() or not (other / name).is_file():
            found.append(f"{name} is missing in one of them")
        else:
            read = _weights if name.endswith(".safetensors") else resumable.read_state
            found += [f"{name}: {told}" for told in differing(read(one / name), read(other / name))]
    return found


def _weights(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


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
