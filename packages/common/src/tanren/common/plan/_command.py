"""`tanren plan [RECIPE.toml]`: memory, work and time of a run, before it starts and without its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.plan._job import find_planner
from tanren.common.plan._prediction import predict
from tanren.common.plan._table import as_json, table
from tanren.common.plan._target import find_target
from tanren.common.plan._verdict import Verdict, verdict_of
from tanren.common.recipe_command import read_arguments, take_switch, take_value

DEFAULT = "train-sft"


@dataclass(frozen=True)
class Options:
    """The planner's own flags; all others are the recipe's."""

    command: str
    gpu: str | None
    memory_gib: float | None
    as_json: bool


HELP = """Says before a run, and without its weights, what it will need: memory by component, steps, tokens, time.

--for COMMAND: the recipe's command (default: train-sft).

--gpu NAME: plan for another GPU than this machine's (H100, 'RTX 5080', B300, ...). --memory GIB replaces its memory.

--json: one JSON object on standard output.

Exit code 0: it fits, or may fit; 1: it does not."""


def run_plan(arguments: Sequence[str]) -> int:
    """Answer `tanren plan`; return the exit code."""
    rest = list(arguments)
    options = _options(rest)
    planner = find_planner(options.command)
    command = replace(planner.command, prog="tanren plan", description=HELP, resumable=False)
    request = read_arguments(command, rest)
    if request is None:
        return ExitCode.DONE
    console = Console()
    target = find_target(options.gpu, options.memory_gib, request.loaded.config.model.device)
    with console.phase("read", "model configuration and rows"):
        job = planner.job(request.loaded, target)
    with console.phase("trace", "a training step without data"):
        prediction = predict(job, job.choice, target)
    if options.as_json:
        json.dump(as_json(job, prediction), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in table(job, prediction))
    return ExitCode.FOUND_WANTING if verdict_of(prediction) is Verdict.REFUSED else ExitCode.DONE


def _options(rest: list[str]) -> Options:
    """Take the planner's own flags out of the arguments."""
    memory = take_value(rest, "--memory", "GIB")
    return Options(
        command=take_value(rest, "--for", "COMMAND") or DEFAULT,
        gpu=take_value(rest, "--gpu", "NAME"),
        memory_gib=None if memory is None else _gib(memory),
        as_json=take_switch(rest, "--json"),
    )


def _gib(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if found <= 0:
        raise UserError(f"--memory {text!r}: expected the device's memory in GiB, as in --memory 16")
    return found
