"""The commands `tanren reward ...`: each is a function; its docstring is its help."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from tanren.common.errors import ExitCode, UserError

ABOUT = (
    "Rewards that follow from a value file: a CSV with one row for each state and the value of each action in columns."
)


def run_reward(arguments: Sequence[str]) -> int:
    """Answer `tanren reward ARGUMENTS`; return the exit code."""
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"tanren reward {first!r}: {hint}")
    if first is None:
        lines = [
            f"  tanren reward {name:<12}{(it.__doc__ or '').partition(chr(10))[0]}" for name, it in COMMANDS.items()
        ]
        sys.stdout.write("\n".join([ABOUT, "", *lines]) + "\n")
        return ExitCode.DONE
    rest = list(arguments)
    rest.remove(first)
    return int(tyro.cli(COMMANDS[first], args=rest, prog=f"tanren reward {first}"))


def boltzmann(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.csv")],
    *,
    tau: float,
    prefix: str = "q_action_",
    check: tyro.conf.FlagCreatePairsOff[bool] = False,
    write: tyro.conf.FlagCreatePairsOff[bool] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Compute softmax(values / tau) of every row, compare it with the file's columns `reward_action_...`, or write them.

    Values are to be maximised. The whole file is checked: every value a finite number, no column missing, no id twice, and
    `optimal_action`, where there is one, the action of the highest value. Of actions that tie the smallest is the best.

    Exit code 0: done; 1: --check found other rewards, or --write found other ones in the file.

    Args:
        file: The value file.
        tau: The temperature, in the unit of the values, above 0: the lower, the more only the best action counts.
        prefix: Begins the name of a value column; the action's index follows it.
        check: Compare: the file's reward columns must be the computed ones to 1e-9.
        write: Add the reward columns to the file; it is written aside and renamed, or left as it is.
        overwrite: With --write: replace reward columns that differ.
        as_json: Print one JSON object on standard output.
    """
    from tanren.common.values._boltzmann import TOLERANCE, compare_rewards, write_rewards
    from tanren.common.values._formulas import best_actions
    from tanren.common.values._table import read_values

    if not (math.isfinite(tau) and tau > 0):
        raise UserError(f"--tau {tau:g}: expected a temperature above 0; the old default is 0.05")
    if check and write:
        raise UserError("--check only looks and --write changes the file: take one of them")
    if overwrite and not write:
        raise UserError("--overwrite has no effect without --write")
    table = read_values(file, prefix)
    found = compare_rewards(table, tau)
    if check and found.max_abs_difference is None:
        raise UserError(
            f"{file}: --check compares the columns reward_action_..., and there are none; --write adds them"
        )
    wrote = write and write_rewards(table, found, overwrite=overwrite)
    best = [best_actions(row.values) for row in table.rows]
    counts = {str(one): sum(row[0] == one for row in best) for one in range(table.actions)}
    values = {
        "file": str(file),
        "rows": len(table.rows),
        "actions": table.actions,
        "tau": tau,
        "best_action_counts": counts,
        "ties": sum(len(row) > 1 for row in best),
        "max_abs_difference": found.max_abs_difference,
        "written": wrote,
    }
    differs = check and not (found.max_abs_difference or 0.0) <= TOLERANCE
    if as_json:
        json.dump(values, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        said = ", ".join(f"{action}: {count}" for action, count in counts.items())
        sys.stdout.write(f"{file}: {len(table.rows)} rows, {table.actions} actions, tau {tau:g}\n")
        sys.stdout.write(f"best action    {said}" + (f" ({values['ties']} ties)\n" if values["ties"] else "\n"))
        if found.max_abs_difference is None:
            sys.stdout.write("rewards        " + ("written\n" if wrote else "none in the file; --write adds them\n"))
        else:
            at = f" ({found.worst})" if found.max_abs_difference else ""
            sys.stdout.write(
                f"rewards        differ by up to {found.max_abs_difference:.3g}{at}{'; replaced' if wrote else ''}\n"
            )
    return ExitCode.FOUND_WANTING if differs else ExitCode.DONE


COMMANDS: dict[str, Callable[..., int]] = {"boltzmann": boltzmann}
