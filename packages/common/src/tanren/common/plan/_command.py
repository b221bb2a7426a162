"""`tanren plan [RECIPE.toml]`: memory, work and time of a run, before it starts and without its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from tanren.common.config import Loaded, Method, Quantisation, dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.plan._changes import remedies
from tanren.common.plan._fit import fit
from tanren.common.plan._job import PLANNED, Job, find_planner
from tanren.common.plan._prediction import Prediction, predict
from tanren.common.plan._probe import corrected, run_probe
from tanren.common.plan._table import Answer, as_json, table
from tanren.common.plan._target import Target, find_target
from tanren.common.plan._verdict import Verdict, fits_with_margin, verdict_of
from tanren.common.recipe_command import read_arguments, take_switch, take_value
from tanren.common.run import write_atomically

DEFAULT = "train-sft"

HELP = """Says before a run, and without its weights, what it will need: memory by component, steps, tokens, time.

--for COMMAND: the recipe's command (default: train-sft).

--gpu NAME: plan for another GPU than this machine's (H100, 'RTX 5080', B300, ...). --memory GIB replaces its memory.

--method lora|full: as if an adapter, or all parameters were trained, whatever the recipe says.

--quantisation none|nf4|int8|fp8: as if the frozen linear layers were kept so, whatever the recipe says.

--fit: choose micro-batch and checkpointing for the device. Settings that the recipe leaves at auto are always chosen.

--write FITTED.toml: write the recipe with what was chosen.

--probe: run two real steps with random weights on this machine's device, and correct the plan by what they took.

--json: one JSON object on standard output.

Exit code 0: it fits, or may fit; 1: it does not."""


@dataclass(frozen=True)
class Options:
    """The planner's own flags; all others are the recipe's."""

    command: str
    gpu: str | None
    memory_gib: float | None
    method: Method | None
    quantisation: Quantisation | None
    fit: bool
    write: Path | None
    probe: bool
    as_json: bool


def run_plan(arguments: Sequence[str]) -> int:
    """Answer `tanren plan`; return the exit code."""
    rest = list(arguments)
    options = _options(rest)
    planner = find_planner(options.command)
    request = read_arguments(
        replace(planner.command, prog="tanren plan", description=HELP, resumable=False, runs_stages=False), rest
    )
    if request is None:
        return ExitCode.DONE
    if request.dry_run:
        raise UserError("--dry-run has no effect on a plan; it does nothing but plan")
    console = Console()
    target = find_target(options.gpu, options.memory_gib, request.loaded.config.model.device)
    if options.probe and not target.here:
        raise UserError(
            f"--probe runs on this machine's device, and the plan is for {target.name}; leave one of the two out"
        )
    with console.phase("read", "model configuration and rows"):
        job = planner.job(request.loaded, target)
    job = job.as_if(options.method, options.quantisation)
    if job.quantisation == "fp8":
        _check_fp8(job, target)
    if options.probe:
        _check_probe(options, job)
    chooses = options.fit or bool(job.open_settings)
    if options.write is not None and not chooses:
        raise UserError(
            "--write writes what was chosen, and nothing is: add --fit, or leave settings at auto in the recipe"
        )
    open_settings = PLANNED if options.fit else job.open_settings
    prediction, tried = _plan(job, target, console, open_settings)
    probe = None
    if options.probe:
        with console.phase("probe", "two steps with random weights, in a process of their own"):
            probe = run_probe(options.command, request.loaded, prediction.choice)
        predicted, prediction = prediction, corrected(prediction, probe)
        if chooses and not fits_with_margin(prediction):
            prediction, tried = _plan(job, prediction.target, console, open_settings)
    cheapest = []
    if verdict_of(prediction) is not Verdict.FITS:
        with console.phase("look for changes that would fit"):
            cheapest = remedies(job, prediction)
    answer = Answer(job, prediction, tuple(tried), tuple(cheapest), (predicted, probe) if probe else None)
    if options.write is not None:
        write_atomically(options.write, _frozen(job, prediction, request.loaded))
        console.line(f"wrote {options.write}")
    if options.as_json:
        json.dump(as_json(answer), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in table(answer))
    return ExitCode.FOUND_WANTING if verdict_of(prediction) is Verdict.REFUSED else ExitCode.DONE


def _check_fp8(job: Job, target: Target) -> None:
    from tanren.common.fp8 import require_fp8

    require_fp8(None if target.gpu is None else target.gpu.compute_capability, target.name, job.dtype)


def _check_probe(options: Options, job: Job) -> None:
    """Refuse a probe that would not run what was planned: it runs the recipe, with random weights as they are."""
    if options.method or options.quantisation:
        raise UserError(
            "--probe runs the recipe itself: say there what --method and --quantisation say here (--train.method, --model.quantisation)"
        )
    if job.quantisation != "none":
        raise UserError(
            f"--probe has random weights, which are not quantised (model.quantisation = {job.quantisation}); leave it out"
        )


def _plan(
    job: Job, target: Target, console: Console, open_settings: Sequence[str]
) -> tuple[Prediction, Sequence[Prediction]]:
    """Return the prediction, and what was tried where the planner chooses."""
    if not open_settings:
        with console.phase("trace", "a training step without data"):
            return predict(job, job.choice, target), ()
    with console.phase("fit", "micro-batch and checkpointing"):
        found = fit(job, target, open_settings)
        return found.least, found.tried


def _frozen(job: Job, prediction: Prediction, loaded: Loaded[Any]) -> str:
    """Return the resolved recipe with what was chosen."""
    chosen = loaded.with_values(job.frozen(prediction.choice, prediction.components, prediction.target), "plan")
    return dump_toml(chosen.values(), chosen.origins)


def _options(rest: list[str]) -> Options:
    """Take the planner's own flags out of the arguments."""
    memory = take_value(rest, "--memory", "GIB")
    write = take_value(rest, "--write", "FITTED.toml")
    return Options(
        command=take_value(rest, "--for", "COMMAND") or DEFAULT,
        gpu=take_value(rest, "--gpu", "NAME"),
        memory_gib=None if memory is None else _gib(memory),
        method=_one_of("--method", take_value(rest, "--method", "lora|full"), Method),
        quantisation=_one_of("--quantisation", take_value(rest, "--quantisation", "none|nf4|int8|fp8"), Quantisation),
        fit=take_switch(rest, "--fit"),
        write=None if write is None else Path(write).expanduser(),
        probe=take_switch(rest, "--probe"),
        as_json=take_switch(rest, "--json"),
    )


def _one_of(flag: str, name: str | None, known: Any) -> Any:
    """Return a value of a Literal, or None where the flag is not given."""
    if name is not None and name not in get_args(known):
        raise UserError(f"{flag} {name!r}: known are {', '.join(get_args(known))}")
    return name


def _gib(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise UserError(f"--memory {text!r}: expected the device's memory in GiB, as in --memory 16")
    return found
