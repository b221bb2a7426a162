"""The stages of one recipe, one after the other: each a run of its own, merged with all before it, in a process of its own.

    runs/<recipe>-<time>/config.toml, log.txt, stages/1-<name>/ (a run directory), stages/2-<name>/ ..., summary.json

A process per stage: what a stage leaves in a GPU's memory, in compiled code or in random states ends with it, so that a
resumed run computes what an uninterrupted one does. This process imports no torch; it passes signals on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tanren.common.chain import read_adapter
from tanren.common.command import run_command
from tanren.common.config import Loaded, Stage, dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode, MachineError, UserError
from tanren.common.ground import check_same_config
from tanren.common.recipe_command import Request, plan_text, plan_values
from tanren.common.run import RunDirectory, create_run, describe_environment, find_open_run, held, write_atomically
from tanren.sft.checks import check_takes_parent
from tanren.sft.command import COMMAND
from tanren.sft.config import SftConfig
from tanren.sft.ground import MAY_DIFFER_ON_RESUME
from tanren.sft.plan import make_plan

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

RunStage = Callable[[Loaded[SftConfig], str | None], int]
STATUS: dict[int, str] = {
    ExitCode.DONE: "preempted",
    ExitCode.PREEMPTED: "preempted",
    ExitCode.INTERRUPTED: "interrupted",
}


def run_stages(request: Request, run_stage: RunStage | None = None) -> int:
    """Run (or resume, or only print) the stages of a recipe; return the exit code of the first that is not finished, else 0.

    `run_stage` runs one stage's configuration, resumed from the run directory that it is given; by default in a process
    of its own. Raises UserError for whatever is wrong with any stage, before the first one starts.
    """
    stages = [_named(request.loaded.config, stage) for stage in request.stages]
    plans = [_first_look(number, stages) for number in range(1, len(stages) + 1)]
    if request.dry_run:
        _print(request, stages, plans)
        return ExitCode.DONE
    console = Console()
    values = request.loaded.values() | {"stages": [{"name": one.name, **one.changes} for one in stages]}
    output = request.loaded.config.output
    name = request.loaded.config.name
    if request.resume:
        run = find_open_run(request.resume, output.runs, name)
        check_same_config(values, run, MAY_DIFFER_ON_RESUME)
    else:
        run = create_run(output.run_dir, output.runs, name)
        write_atomically(run.config, dump_toml(values, request.loaded.origins))
        run.write_json(run.environment, describe_environment() | {"command": COMMAND.prog})
    with held(run), run.log.open("a", encoding="utf-8") as console.log:
        console.line(f"train-sft {name}: {len(stages)} stages: {', '.join(stage.name for stage in stages)}")
        console.line(f"run directory: {run.path}")
        return _Sequence(run, stages, console, run_stage or in_own_process).run()


@dataclass(frozen=True)
class _Sequence:
    """The stages in their run directory."""

    run_directory: RunDirectory
    stages: Sequence[Stage[SftConfig]]
    console: Console
    run_stage: RunStage

    def run(self) -> int:
        begun = time.time()
        for number, stage in enumerate(self.stages, start=1):
            try:
                code = self._one(number, stage)
            except BaseException as error:
                with suppress(Exception):  # the error itself is what the user must hear
                    status = "failed" if isinstance(error, Exception) else "interrupted"
                    self._summarise(status, begun)
                raise
            if not self._folder(number).finished:
                status = self._status(number, code)
                self._summarise(status, begun)
                later = ", ".join(one.name for one in self.stages[number:])
                self.console.line(
                    f"stage {number} of {len(self.stages)}, {stage.name}: {status} (exit code {code})"
                    + (f"; not started: {later}" if later else "")
                    + f"; to continue: the same command with --resume {self.run_directory.path}"
                )
                return code
        summary = self._summarise("done", begun)
        result = next(name for name in ("adapter", "model") if name in summary)
        self.console.line(
            f"all {len(self.stages)} stages are done; {result}: {self.run_directory.path / summary[result]}"
        )
        return ExitCode.DONE

    def _one(self, number: int, stage: Stage[SftConfig]) -> int:
        """Run, resume or keep one stage; return its exit code."""
        run = self._folder(number)
        title = f"stage {number} of {len(self.stages)}, {stage.name}"
        if run.finished:
            sha256 = read_adapter(run.adapter).itself.adapter_sha256 if run.adapter.is_dir() else None
            self.console.line(f"{title}: finished before, kept{f' (adapter sha256 {sha256[:8]})' if sha256 else ''}")
            return ExitCode.DONE
        resume = None
        if run.checkpoint_steps():
            resume = str(run.path)
        elif run.path.exists():
            with held(run):
                pass
            aside = next(
                path
                for n in range(1, 1000)
                if not (path := run.path.with_name(f"stopped-{n}-{run.path.name}")).exists()
            )
            run.path.rename(aside)
            self.console.line(f"{title}: had been stopped before its first checkpoint; what it left is now {aside}")
        values: dict[str, Any] = {"output.run_dir": str(run.path)}
        if number > 1:
            values["model.parent"] = str(self._folder(number - 1).path)
        self.console.line(f"{title}: {'resumed' if resume else 'begins'}")
        return self.run_stage(stage.loaded.with_values(values, f"stage {number} of {len(self.stages)}"), resume)

    def _status(self, number: int, code: int) -> str:
        """Say how a stage that is not finished ended; by its exit code, or by its own summary where that tells nothing."""
        if code != ExitCode.DONE:
            return STATUS.get(code, "failed")
        status: str = json.loads(self._folder(number).summary.read_text(encoding="utf-8"))["status"]
        return status

    def _folder(self, number: int) -> RunDirectory:
        return RunDirectory(self.run_directory.stages / f"{number}-{self.stages[number - 1].name}")

    def _summarise(self, status: str, begun: float) -> dict[str, Any]:
        """Write what became of the stages, the last thing that a finished run writes."""
        kept = ("status", "steps", "tokens", "first_loss", "last_loss", "seconds", "validation", "evaluation")
        stages = []
        for number, stage in enumerate(self.stages, start=1):
            run = self._folder(number)
            folder = str(run.path.relative_to(self.run_directory.path))
            found = json.loads(run.summary.read_text(encoding="utf-8")) if run.summary.is_file() else {}
            numbers = {key: found[key] for key in kept if key in found} or {"status": "not finished"}
            stages.append({"name": stage.name, "folder": folder, **numbers})
        summary: dict[str, Any] = {
            "status": status,
            "name": self.run_directory.read_config()["name"],
            "seconds": round(time.time() - begun, 1),
            "stages": stages,
        }
        if status == "done":
            last = self._folder(len(self.stages))
            result = last.adapter if last.adapter.is_dir() else last.model
            summary[result.name] = str(result.relative_to(self.run_directory.path))
        self.run_directory.write_json(self.run_directory.summary, summary)
        return summary


def _named(config: SftConfig, stage: Stage[SftConfig]) -> Stage[SftConfig]:
    """Return a stage whose runs can be told from those of the recipe's other stages."""
    loaded = stage.loaded.with_values({"name": f"{config.name}-{stage.name}"}, f"stage {stage.name!r}")
    return replace(stage, loaded=loaded)


def _first_look(number: int, stages: Sequence[Stage[SftConfig]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Check a stage as far as that goes before the one before it is done; return what it would do, and warnings."""
    loaded = stages[number - 1].loaded
    if number > 1 and loaded.config.model.parent is not None:  # the recipe's own: it stands below the first stage
        loaded = loaded.with_values({"model.parent": None}, f"the result of stage {stages[number - 2].name!r}")
    plan = make_plan(loaded)
    facts = plan.facts()
    if number < len(stages) and loaded.config.train.method == "full":
        raise UserError(
            f"stage {stages[number - 1].name!r} has train.method = full: its result is a whole model, and a stage after it starts from "
            "an adapter's; make it the last stage, or write two recipes, the second with model.name = RUN/model"
        )
    if number > 1:
        check_takes_parent(loaded.config)
        facts["parents"] = f"the result of stage {stages[number - 2].name!r}"
    return facts, plan.warnings


def _print(
    request: Request, stages: Sequence[Stage[SftConfig]], plans: Sequence[tuple[dict[str, Any], tuple[str, ...]]]
) -> None:
    if request.as_json:
        told = [{"name": one.name, **plan_values(one.loaded, *plan)} for one, plan in zip(stages, plans, strict=True)]
        json.dump({"stages": told}, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    for number, (stage, plan) in enumerate(zip(stages, plans, strict=True), start=1):
        sys.stdout.write(f"# ===== Stage {number} of {len(stages)}: {stage.name}\n\n{plan_text(stage.loaded, *plan)}\n")


def in_own_process(loaded: Loaded[SftConfig], resume: str | None) -> int:
    """Run one stage in a new process; return its exit code. Raises MachineError where it was killed."""
    process = multiprocessing.get_context("spawn").Process(target=_stage_process, args=(loaded, resume))
    with _passing_on(process):
        process.start()
        process.join()
    code = process.exitcode
    assert code is not None, "it was waited for"
    if code < 0:
        raise MachineError(
            f"the process of stage {loaded.config.name} was killed by {signal.Signals(-code).name}; "
            "SIGKILL is mostly the machine's memory running out; continue with --resume"
        )
    return code


@contextmanager
def _passing_on(process: BaseProcess) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to a stage's process instead of ending here: it writes a checkpoint."""

    def pass_on(signum: int, frame: object) -> None:
        del frame
        if process.pid is not None and process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signum)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stage_process(loaded: Loaded[SftConfig], resume: str | None) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches the terminal's whole group; it is passed on once
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def run(arguments: Sequence[str]) -> int:
        del arguments
        from tanren.sft.job import run_job

        return run_job(make_plan(loaded, resume), resume=resume)

    sys.exit(run_command(run, []))


def _end_with_parent() -> None:
    """Stop with a checkpoint when the process that runs the stages is gone: nobody else would stop this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
