"""`tanren data duplicates`: repeated prompts, repeated rows, answers that contradict one another, and the leak they cause."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from tanren.common.console import Console
from tanren.common.data._repeats import Repeats
from tanren.common.data._show import new_table, opened, percent, print_json, say_faults, told
from tanren.common.data._source import Source, scan
from tanren.common.errors import ExitCode, UserError


def run_duplicates(sources: Sequence[Source], *, validation_share: float, seed: int, as_json: bool) -> int:
    """Count what comes again and print it. Exit code 1 where a row could not be read."""
    if not 0 < validation_share < 1:
        raise UserError(f"--validation-share {validation_share}: expected a share between 0 and 1")
    console = Console()
    found = Repeats([source.name for source in sources])
    scans = opened(console, sources, scan)
    for index, rows in enumerate(scans):
        with console.phase("look for duplicates", sources[index].name):
            found.take(index, told(console, "look for duplicates", rows))
    values = found.as_json(validation_share, seed)
    if as_json:
        print_json(values)
    else:
        _print(found, values)
    return ExitCode.FOUND_WANTING if found.faults else ExitCode.DONE


def _print(found: Repeats, values: dict[str, Any]) -> None:
    out = Console(stream=sys.stdout)
    rows = values["rows"]
    table = new_table("Duplicates", "", "rows", "% of rows")
    for name, count in (
        ("rows", rows),
        ("different prompts", values["prompts"]),
        ("rows whose prompt came before", values["repeated_prompts"]),
        ("rows that share their prompt", values["rows_of_repeated_prompts"]),
        ("rows that came before, answer and all", values["repeated_rows"]),
        (
            f"rows of {values['conflicting_prompts']} prompts with different answers",
            values["rows_of_conflicting_prompts"],
        ),
    ):
        table.add_row(name, str(count), percent(count, rows))
    out.rich.print(table)
    if found.largest():
        out.text("")
        largest = new_table("The prompts that come most often", "prompt", "first row", "rows", "answers", texts=2)
        for group in found.largest():
            largest.add_row(Text(group.prompt), Text(group.first), str(group.rows), str(group.answers))
        out.rich.print(largest)
    out.text("")
    for pair in values["prompts_in_common"]:
        out.text(f"{pair['prompts']} prompts are in both {pair['sources'][0]} and {pair['sources'][1]}")
    if len(found.names) > 1 and not values["prompts_in_common"]:
        out.text("no prompt is in two of the sources")
    leak = values["leak"]
    if rows:
        out.text(
            f"A split into rows that holds out {100 * leak['validation_share']:g} % ({leak['validation_rows']} rows) leaks:"
        )
        out.text(
            f"  {percent(leak['expected_share'], 1):>5} % of the rows held out have a prompt that is trained on, too"
        )
        out.text(
            f"  {percent(leak['share_of_seed'], 1):>5} % with seed {leak['seed']} (the line above is expected over all splits)"
        )
        out.text("    0.0 % where the split keeps a prompt's rows together")
    say_faults(out, found.faults)
