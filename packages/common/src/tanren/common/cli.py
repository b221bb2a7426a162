"""The command tanren: what is common to all trainers. Each sub-command is a function; its docstring is its help."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from tanren.common.command import run_command
from tanren.common.task_packs import known_packs, load_pack

ABOUT = "What all commands share: is this machine fit, which task packs there are, everything for a machine without a network."


def main() -> None:
    """Run tanren with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    # A word after a command that works without one: tyro knows either flags or sub-commands there.
    if list(arguments[:2]) == ["doctor", "explain"]:
        return int(tyro.cli(explain, args=list(arguments[2:]), prog="tanren doctor explain"))
    if list(arguments[:1]) == ["data"]:
        from tanren.common.data import run_data

        return run_data(arguments[1:])
    if list(arguments[:1]) == ["task"]:
        from tanren.common.task_command import run_task

        return run_task(arguments[1:])
    if list(arguments[:1]) == ["reward"]:
        from tanren.common.values import run_reward

        return run_reward(arguments[1:])
    if list(arguments[:1]) == ["plan"]:  # its flags are those of the recipe's command as well
        from tanren.common.plan import run_plan

        return run_plan(arguments[1:])
    if list(arguments[:1]) == ["doctor"]:
        from tanren.common.doctor.deep import with_tiers_last

        arguments = with_tiers_last(arguments)
    commands: dict[str, Any] = {
        "tasks": tasks,
        "rows": rows,
        "task": task,
        "doctor": doctor,
        "plan": plan,
        "data": data,
        "reward": reward,
        "bundle": bundle,
        "watch": watch,
        "view": view,
        "resume": resume,
        "import-env": import_env_files,
        "merge": merge,
    }
    return int(tyro.extras.subcommand_cli_from_dict(commands, args=list(arguments), prog="tanren", description=ABOUT))


def tasks(*, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> int:
    """List the task packs that can be named in a recipe.

    Args:
        as_json: Print one JSON object instead of lines.
    """
    packs = {name: load_pack(name).description for name in known_packs()}
    if as_json:
        json.dump(
            {name: pack.model_dump() for name, pack in packs.items()},
            sys.stdout,
            indent=2,
            ensure_ascii=False,
        )
        sys.stdout.write("\n")
    else:
        sys.stdout.writelines(f"{name}: {pack.title} ({pack.licence})\n" for name, pack in packs.items())
    return 0


def rows(
    pack: tyro.conf.Positional[str],
    split: Annotated[str, tyro.conf.arg(help="train or heldout")] = "heldout",
    count: int = 3,
) -> int:
    """Print rows of a task pack with its default options: prompt and reference answer.

    Args:
        pack: The task pack.
        split: train or heldout.
        count: How many rows.
    """
    from tanren.common.errors import UserError

    if split not in ("train", "heldout"):
        raise UserError(f"split {split!r}: expected train or heldout")
    for row in load_pack(pack).rows("train" if split == "train" else "heldout")[:count]:
        turns = "\n".join(f"{message.role}: {message.content}" for message in row.messages)
        sys.stdout.write(f"--- {row.id} ({row.group})\n{turns}\n")
    return 0


def doctor(
    recipe: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RECIPE.toml]")] = None,
    *,
    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    expect_env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    no_gpu: tyro.conf.FlagCreatePairsOff[bool] = False,
    recommend: tyro.conf.FlagCreatePairsOff[bool] = False,
    deep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[TIER ...]")] = (),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Say whether this machine and environment are fit to train; exit code 0 only where training will run.

    `tanren doctor explain LOGFILE` reads the log of a run that failed instead, and names cause and fix.

    Args:
        recipe: Look also for what this recipe names: the model (on the hub too), the data, the task pack.
        env: Judge this machine for another environment, installed or not (default: the one that it was started in).
        expect_env: Refuse unless this process runs in the environment of this name.
        no_gpu: A machine without a GPU is no fault: look at everything else.
        recommend: Say instead which environment is for this machine, and why; exit code 1 where none is.
        deep: Prove by computing, in tiers: kernels (the default), imports, vllm, nccl, or all.
        as_json: Print one JSON object on standard output, the rows on standard error.
    """
    from tanren.common.doctor import run_doctor, run_recommend
    from tanren.common.errors import UserError

    if recommend and deep:
        raise UserError("--deep proves what is installed, --recommend says what to install: take one of them")
    if recommend:
        if env is not None or recipe is not None:
            raise UserError("--recommend looks for the environment of this machine: leave --env and RECIPE.toml out")
        return run_recommend(expect_env=expect_env, wants_gpu=not no_gpu, as_json=as_json)
    if deep and env is not None:
        raise UserError(f"--deep proves the environment that runs: start it there: ./pixiw run -e {env} doctor --deep")
    return run_doctor(expect_env=expect_env, wants_gpu=not no_gpu, as_json=as_json, env=env, recipe=recipe, tiers=deep)


def explain(
    logfile: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LOGFILE")],
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Name the known failures in a log, with cause and fix, in the order of their first lines.

    Exit code 0: at least one was found; 1: none that is known.

    Args:
        logfile: The log, of any program and size; - reads standard input.
        as_json: Print one JSON object on standard output, the rows on standard error.
    """
    from tanren.common.doctor import explain_log

    return explain_log(logfile, as_json=as_json)


def data() -> int:
    """Look at data before it is trained on: inspect, validate, lengths, duplicates, show (`tanren data --help`)."""
    raise AssertionError("answered before the parser is asked")


def reward() -> int:
    """Compute, check and write the rewards that follow from a value file (`tanren reward boltzmann --help`)."""
    raise AssertionError("answered before the parser is asked")


def task() -> int:
    """Make a task pack from a skeleton, or check one against the contract (`tanren task --help`)."""
    raise AssertionError("answered before the parser is asked")


def watch(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.svg")] = None,
    every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 2.0,
    once: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Draw the curves of a run as SVG, anew whenever a step is done, until it ends.

    Args:
        run: A run directory.
        out: The file to draw to; not set means watch.svg in the run directory.
        every: Seconds between two looks.
        once: Draw what is there now, and end.
    """
    from tanren.common.watch import run_watch

    return run_watch(run, out, every, once=once)


def view(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    open_browser: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="open")] = False,
) -> int:
    """Show a run's items in the browser, with every candidate's answer and its verdict; answers can be edited.

    Serves this machine alone, under an address with a token, until Ctrl-C.

    Args:
        run: A run directory with an evaluation.
        port: The port to listen on; 0: a free one.
        open_browser: Open the address in a browser of this machine.
    """
    from tanren.common.evaluators import find_viewer

    return find_viewer()(run, port=port, open_browser=open_browser)


def plan() -> int:
    """Say what a run will need before it starts: memory, steps, tokens, time (`tanren plan --help`)."""
    raise AssertionError("answered before the parser is asked")


def resume(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    verify: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Continue an interrupted run from its newest checkpoint, with its own recipe and the command that it began with.

    Args:
        run: The run directory.
        verify: Do not continue it, but prove on this machine that continuing it is bit for bit: a few of its steps straight
            and again with a stop in between. Exit code 0: equal; 1: not, with the first difference named.
    """
    from tanren.common.run import resume_command

    command = resume_command(run, verify=verify)
    sys.stderr.write(f"{' '.join(command)}\n")
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606 (the same process: signals and the exit code are the trainer's own)


def import_env_files(
    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STAGE.env [STAGE.env ...]")] = (),
    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=N ...]")] = (),
) -> int:
    """Print a recipe of train-sft that does what the old staged trainer did with its .env files (SFT_... variables).

    One file becomes a recipe, several become one with stages, in their order: tanren import-env stage1.env stage2.env > my.toml

    Args:
        files: The .env files. Nothing else is read: not the process's environment, no default of the shell.
        rows: How many rows a dataset of SFT_DATASET_MIX has, as owner/name=4000: the old size of a mix follows from it.
    """
    from tanren.common.errors import UserError
    from tanren.common.import_env import import_env

    if not files:
        raise UserError("no file was named; write: tanren import-env stage1.env [stage2.env ...] > my.toml")
    counts: dict[str, int] = {}
    for one in rows:
        name, _, count = one.rpartition("=")
        if not name or not count.isdecimal() or int(count) == 0:
            raise UserError(f"--rows {one!r}: expected a dataset and how many rows it has, as owner/name=4000")
        counts[name] = int(count)
    sys.stdout.write(import_env(files, counts))
    return 0


def merge(
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    dtype: Annotated[str | None, tyro.conf.arg(metavar="float32|bfloat16")] = None,
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    chat_template: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None,
) -> int:
    """Write a whole model: the base, with the chain of adapters below a run's result and that result merged into it in order.

    Every file is checked against what the run recorded; a base, parent or chat template that is another is refused.

    Args:
        run: A finished run directory, latest:NAME (in ./runs), or an adapter's folder.
        out: The folder to write; must not exist.
        dtype: The precision that is written (default: the one in which the adapter was trained).
        model: Where the base model is, if it is no longer where the run found it: a folder, or a hub id.
        chat_template: The one of the training, where it was not the model's own; the merged model gets it.
    """
    from tanren.common.merge import merge_run

    merge_run(run, out, dtype, model, chat_template)
    return 0


def bundle(
    environment: tyro.conf.Positional[str] = "",
    out: Path | None = None,
    platform: str = "",
    python_only: bool = False,
    verify: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Fetch every file of both locks of one environment into a folder, for a machine without a network.

    There, `./pixiw --bundle DIR run ...` installs from the folder alone. Every file is checked by its sha256. Stopped at
    any point, the same command goes on; run again on a finished bundle, it checks it.

    Args:
        environment: The environment of pixi.toml: default, train, b300, ...
        out: The folder to fill.
        platform: linux-64, linux-aarch64 or osx-arm64; of `default` only, the others have one. Default: this machine's.
        python_only: Only the wheels, for this Python's version: to install `default` without pixi (PIXIW_MODE=index).
        verify: Check this finished bundle instead, without a network.
        as_json: Print one JSON object on standard output at the end.
    """
    from tanren.common.bundle import make_bundle, verify_bundle
    from tanren.common.console import Console
    from tanren.common.environments import EnvironmentsError
    from tanren.common.errors import UserError
    from tanren.common.workspace import workspace_root

    if (verify is None) == (out is None) or (environment == "") != (out is None):
        raise UserError(
            "say `tanren bundle ENVIRONMENT --out DIR` to make a bundle, or `tanren bundle --verify DIR` to check one"
        )
    console = Console()
    downloaded = 0
    if verify is not None or out is None:
        folder = (verify or Path()).absolute()
        manifest = verify_bundle(folder, console)
    else:
        root = workspace_root()
        if root is None:
            raise UserError("there is no workspace here: start this in the folder of Tanren's pixi.toml")
        folder = out.absolute()
        try:
            made = make_bundle(root, environment, folder, platform=platform, python_only=python_only, console=console)
        except EnvironmentsError as error:
            raise UserError(str(error)) from error
        manifest, downloaded = made.manifest, made.downloaded
    size = sum(file.size for file in manifest.files)
    console.line(
        f"complete: {len(manifest.files)} files, {size / 1e9:.2f} GB, every sha256 as locked; ./pixiw --bundle {folder} run ..."
    )
    if as_json:
        facts = {
            "folder": str(folder),
            "environments": manifest.environments,
            "platform": manifest.platform,
            "python": manifest.python,
            "python_only": manifest.python_only,
            "files": len(manifest.files),
            "bytes": size,
            "downloaded_bytes": downloaded,
        }
        json.dump(facts, sys.stdout, indent=2)
        sys.stdout.write("\n")
    return 0
