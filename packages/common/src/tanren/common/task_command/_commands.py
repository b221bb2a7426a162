"""The commands `tanren task ...`: each is a function; its docstring is its help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from tanren.common.errors import ExitCode, UserError
from tanren.common.task_packs import find_pack

ABOUT = "Task packs of your own: make one from a skeleton that runs, check that one keeps the contract (docs/tasks.md)."


def run_task(arguments: Sequence[str]) -> int:
    """Answer `tanren task ARGUMENTS`; return the exit code."""
    return int(
        tyro.extras.subcommand_cli_from_dict(COMMANDS, args=list(arguments), prog="tanren task", description=ABOUT)
    )


def new(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")],
    folder: Annotated[Path | None, tyro.conf.arg(name="dir", metavar="FOLDER")] = None,
) -> int:
    """Make a small pack that trains and passes its test as it stands, and say what to edit.

    Args:
        name: The pack's name, and its folder's: lower-case letters, digits and _, a letter first.
        folder: Where the pack's folder is made (default: tasks/ of the workspace, where packs are found by name).
    """
    from tanren.common.task_command._new import make_pack, next_steps

    made = make_pack(name, folder)
    sys.stdout.write(next_steps(made))
    return ExitCode.DONE


def check(
    pack: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PACK")],
    *,
    rows: Annotated[int, tyro.conf.arg(metavar="N")] = 200,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Check that a pack keeps the contract: rows, splits, parser, reward, prompts. Exit code 0: it does; 1: it does not.

    Args:
        pack: A pack's name, or its folder (with a / in it).
        rows: So many rows of each split are answered and judged; of all, ids and prompts are looked at.
        as_json: Print one JSON object instead of lines.
    """
    from tanren.common.task_command._check import check_pack

    if rows < 1:
        raise UserError(f"--rows {rows}: expected how many rows to judge, 1 or more")
    folder = find_pack(pack)
    findings = check_pack(str(folder), rows)
    passed = all(finding.passed for finding in findings)
    if as_json:
        json.dump(
            {"pack": str(folder), "passed": passed, "checks": [asdict(finding) for finding in findings]},
            sys.stdout,
            indent=2,
            ensure_ascii=False,
        )
        sys.stdout.write("\n")
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            sys.stdout.write(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.check:<{width}}  {finding.detail}\n")
        failed = sum(not finding.passed for finding in findings)
        verdict = (
            "keeps the contract"
            if passed
            else f"{failed} of {len(findings)} checks failed; docs/tasks.md has the contract"
        )
        sys.stdout.write(f"{folder}: {verdict}\n")
    return ExitCode.DONE if passed else ExitCode.FOUND_WANTING


COMMANDS: dict[str, Callable[..., int]] = {"new": new, "check": check}
