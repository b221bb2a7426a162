"""The command tanren: what is common to all trainers. Each sub-command is a function; its docstring is its help."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from tanren.common.command import run_command
from tanren.common.task_packs import known_packs, load_pack


def main() -> None:
    """Run tanren with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    commands: dict[str, Any] = {"tasks": tasks, "rows": rows, "doctor": doctor}
    return int(tyro.extras.subcommand_cli_from_dict(commands, args=list(arguments), prog="tanren", description=__doc__))


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
    *,
    expect_env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    no_gpu: tyro.conf.FlagCreatePairsOff[bool] = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Say whether this machine and environment are fit to train; exit code 1 where something is refused.

    Args:
        expect_env: The pixi environment that this must be (default: the one that it was started in).
        no_gpu: A machine without a GPU is no fault: look at everything else.
        as_json: Print one JSON object on standard output, the rows on standard error.
    """
    from tanren.common.doctor import run_doctor

    return run_doctor(expect_env=expect_env, wants_gpu=not no_gpu, as_json=as_json)
