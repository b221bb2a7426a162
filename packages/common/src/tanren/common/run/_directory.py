"""Run directories: `runs/<recipe>-<time>/`, created once, never overwritten, resumed in place."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sysconfig
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tanren.common.errors import MachineError, UserError

from ._files import write_atomically

CHECKPOINT_PREFIX = "step-"
STAGES = "stages"
# Kept in hand when a run starts: enough for its logs, so that a full disk is told before hours are spent.
LEAST_FREE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run, and what may be done with them."""

    path: Path

    @property
    def label(self) -> str:
        """Its name among all runs: a stage's begins with that of the run that it is a stage of."""
        above = self.path.absolute().parent
        return f"{above.parent.name}/{self.path.name}" if above.name == STAGES else self.path.name

    @property
    def stages(self) -> Path:
        """The folder of the stages' run directories, of a run that has stages."""
        return self.path / STAGES

    @property
    def finished(self) -> bool:
        """Whether its summary.json says that it is done."""
        return _finished(self.path)

    @property
    def config(self) -> Path:
        """The resolved configuration with the origin of each value."""
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        """What the run ran on."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The events of the run, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Written last: its presence says that the run ended, and how."""
        return self.path / "summary.json"

    @property
    def log(self) -> Path:
        """What was printed."""
        return self.path / "log.txt"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The whole model, where all weights were trained."""
        return self.path / "model"

    @property
    def evaluation(self) -> Path:
        """Tasks, predictions and scores."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder of `step-N/` folders."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint after optimizer step `step`."""
        return self.checkpoints / f"{CHECKPOINT_PREFIX}{step}"

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the finished checkpoints, in order (sorted as numbers)."""
        names = [path.name.removeprefix(CHECKPOINT_PREFIX) for path in self.checkpoints.glob(f"{CHECKPOINT_PREFIX}*")]
        return sorted(int(name) for name in names if name.isdigit())

    def keep_checkpoints(self, number: int, *, also: int | None = None) -> None:
        """Delete all but the newest `number` checkpoints and the one after step `also`.

        Each is renamed before it is deleted, so that a kill in between leaves no checkpoint with files missing.
        """
        for step in self.checkpoint_steps()[:-number]:
            if step != also:
                self.checkpoint(step).rename(self.checkpoints / f".{CHECKPOINT_PREFIX}{step}.deleted")
        for folder in self.checkpoints.glob(f".{CHECKPOINT_PREFIX}*.deleted"):
            shutil.rmtree(folder)

    def write_json(self, path: Path, values: Mapping[str, Any]) -> None:
        """Write a JSON file of this run, whole or not at all."""
        write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n")

    def read_config(self) -> dict[str, Any]:
        """Return the recorded configuration as nested values."""
        return tomllib.loads(self.config.read_text(encoding="utf-8"))


def create_run(folder: Path | None, runs: Path, name: str) -> RunDirectory:
    """Create a new run directory: `folder` if the user named one, else `runs/<name>-<time>`.

    Raises UserError if it exists (a run is never overwritten), MachineError if there is no room or no permission.
    """
    refuse_existing(folder)
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    own = folder.expanduser() if folder is not None else runs.expanduser() / f"{name}-{stamp}"
    try:
        folder = _make_new(own, exact=folder is not None)
    except (PermissionError, NotADirectoryError) as error:
        raise UserError(
            f"the run directory {own} cannot be made: {error.strerror}; name one that you may write to"
        ) from None
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        folder.rmdir()
        raise MachineError(
            f"the disk is full: {free // 2**20} MiB are free at {folder.parent}, at least {LEAST_FREE_BYTES // 2**20} MiB "
            "are needed to start a run; free some space"
        )
    return RunDirectory(folder)


def _make_new(folder: Path, *, exact: bool) -> Path:
    """Make a folder that was not there. Not `exact`: with a number behind it where another run of this second has it."""
    for attempt in itertools.count(1):
        path = folder if attempt == 1 else folder.with_name(f"{folder.name}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # asked of the file system, so that two processes cannot both be told that it is free
            if exact:
                raise _exists(folder) from None
        else:
            return path
    raise AssertionError("unreachable")


def refuse_existing(folder: Path | None) -> None:
    """Raise UserError if the run directory that the user named exists: a run is never overwritten."""
    if folder is not None and folder.expanduser().exists():
        raise _exists(folder)


def _exists(folder: Path) -> UserError:
    return UserError(
        f"the run directory {folder} exists; a run is never overwritten: name another one, delete it, "
        f"or continue it with --resume {folder}"
    )


def open_run(which: str, runs: Path, name: str) -> RunDirectory:
    """Find the run to resume: `latest` (the newest of this recipe that is not finished) or a path.

    Raises UserError if there is none, or if it has no checkpoint yet.
    """
    run = find_open_run(which, runs, name)
    if not run.checkpoint_steps():
        has = "stages, and the recipe has none" if run.stages.is_dir() else "no checkpoint yet"
        raise UserError(f"--resume: {run.path} has {has}; start a new run without --resume")
    return run


def find_open_run(which: str, runs: Path, name: str) -> RunDirectory:
    """Find the run to resume as `open_run` does, whether it has a checkpoint or not."""
    if which == "latest":
        # With the time's form, so that `sft` does not find the runs of `sft-long`.
        form = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
        candidates = [
            path.parent for path in runs.expanduser().glob("*/config.toml") if form.fullmatch(path.parent.name)
        ]
        open_ones = [path for path in candidates if not _finished(path)]
        if not open_ones:
            found = f"{len(candidates)} runs of it, all finished" if candidates else "no run of it"
            raise UserError(
                f"--resume latest: nothing to resume for {name!r} in {runs}: {found}; start without --resume"
            )
        run = RunDirectory(max(open_ones, key=os.path.getmtime))
    else:
        run = RunDirectory(Path(which).expanduser())
        if not run.config.is_file():
            raise UserError(f"--resume {which}: no run there (no config.toml); name a run directory or 'latest'")
        if _finished(run.path):
            raise UserError(f"--resume {which}: this run is finished (its summary.json says so); start a new one")
    return run


def resume_command(folder: Path, *, verify: bool) -> list[str]:
    """Return the command line that continues a run, with its own recorded settings (as the recipe, where it had one).

    Raises UserError if there is no run, or if it does not say what started it or that is not installed here.
    """
    run = RunDirectory(folder.expanduser())
    # Of a run with stages, each stage has its own.
    environments = [run.environment, *sorted(run.stages.glob(f"*/{run.environment.name}"))]
    environment = next((path for path in environments if path.is_file()), None)
    if not run.config.is_file() or environment is None:
        raise UserError(f"{folder}: no run there (no config.toml and environment.json); name a run directory")
    recorded = json.loads(environment.read_text(encoding="utf-8"))
    name = recorded.get("command")
    if name is None:
        raise UserError(
            f"{environment} does not say which command made it; write COMMAND {run.config} --resume {folder}"
        )
    program = Path(sysconfig.get_path("scripts"), name)
    if not program.is_file():
        raise UserError(f"{folder} was made by {name}, which is not installed here (no {program}); install its package")
    if verify and "arguments" in recorded:
        raise UserError(f"--verify: {folder} has no steps of training; leave it out")
    # What takes no recipe has its own command line on record.
    again = recorded.get("arguments", [str(run.config)])
    return [str(program), *again, "--resume", str(run.path), *(["--verify"] if verify else [])]


def _finished(path: Path) -> bool:
    try:
        return bool(json.loads((path / "summary.json").read_text(encoding="utf-8"))["status"] == "done")
    except FileNotFoundError:
        return False
