"""`tanren data lengths`: how long rows are in tokens of the model that will be trained, and which limit to take."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rich.text import Text

from tanren.common.console import Console
from tanren.common.data._distribution import COVERED, Lengths
from tanren.common.data._payload import payload_format
from tanren.common.data._records import Fault
from tanren.common.data._show import new_table, opened, percent, print_json, say_faults, told
from tanren.common.data._source import Source, scan
from tanren.common.errors import ExitCode, UserError
from tanren.common.task_contract import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.chat import Sample

BATCH = 64  # rows that are tokenised together
SMALLEST_GROUP = 10
"""A format or category with fewer rows has no line of its own."""
PLOTS = (".png", ".svg")


@dataclass
class Measured:
    """The lengths of all rows, and of those of each source, format and category."""

    all: Lengths = field(default_factory=Lengths)
    sources: dict[str, Lengths] = field(default_factory=dict)
    formats: dict[str, Lengths] = field(default_factory=dict)
    categories: dict[str, Lengths] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def take(self, name: str, rows: Iterable[Row | Fault], tokenizer: PreTrainedTokenizerBase) -> None:
        """Measure the rows of a source; a row that the template or the tokenizer cannot write is a fault."""
        own = self.sources.setdefault(name, Lengths())
        good = (row for row in rows if self._is_row(row))
        while batch := list(itertools.islice(good, BATCH)):
            for row, sample in _samples(tokenizer, batch):
                if isinstance(sample, Fault):
                    self.faults.append(sample)
                    continue
                for group in [self.all, own, *self._groups(row)]:
                    group.add(len(sample.input_ids), sample.supervised)

    def _is_row(self, row: Row | Fault) -> TypeGuard[Row]:
        if isinstance(row, Fault):
            self.faults.append(row)
            return False
        return True

    def _groups(self, row: Row) -> Iterator[Lengths]:
        named, category = payload_format(row), row.metadata.get("category")
        if named is not None:
            yield self.formats.setdefault(named, Lengths())
        if isinstance(category, str):
            yield self.categories.setdefault(category, Lengths())

    def as_json(self, model: str) -> dict[str, Any]:
        """Return all statistics and the recommendation."""
        return {
            "model": model,
            "unread": sum(max(1, fault.rows) for fault in self.faults),
            "all": self.all.as_json() if self.all.tokens else None,
            "sources": {name: one.as_json() for name, one in self.sources.items() if one.tokens},
            "formats": {name: one.as_json() for name, one in large(self.formats).items()},
            "categories": {name: one.as_json() for name, one in large(self.categories).items()},
            "recommendation": self.recommendation(),
            "errors": [{"row": fault.place, "message": fault.message} for fault in self.faults],
        }

    def recommendation(self) -> dict[str, Any] | None:
        """Return the limit to take, and what it costs, by format too; None without rows, or where no usual limit is enough."""
        limit = self.all.recommended_limit() if self.all.tokens else None
        if limit is None:
            return None
        beyond = {name: one.beyond(limit)["rows"] for name, one in self.formats.items()}
        return {"max_tokens": limit, **self.all.beyond(limit), "rows_by_format": {k: n for k, n in beyond.items() if n}}


def _samples(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Iterator[tuple[Row, Sample | Fault]]:
    """Yield each row with its sample. All are tokenised together, and each by itself only where one of them cannot be."""
    from tanren.common.chat import WHOLE_LAST_TURN, render_row, tokenise

    rendered = []
    for row in rows:
        try:
            rendered.append((row, render_row(tokenizer, row, WHOLE_LAST_TURN, row.id)))
        except UserError as error:
            yield row, _fault(row, error)
    together = [rendered] if rendered else []
    while together:
        part = together.pop(0)
        ids = [row.id for row, _ in part]
        try:
            samples = tokenise(tokenizer, [text for _, text in part], ids, ids)
        except UserError as error:
            if len(part) == 1:
                yield part[0][0], _fault(part[0][0], error)
            else:
                together = [[one] for one in part]
            continue
        yield from zip((row for row, _ in part), samples, strict=True)


def _fault(row: Row, error: UserError) -> Fault:
    return Fault(row.id, str(error).removeprefix(f"{row.id}: "))


def large(groups: dict[str, Lengths]) -> dict[str, Lengths]:
    """Return the groups with enough rows for a line, by name."""
    return {name: one for name, one in sorted(groups.items()) if len(one.tokens) >= SMALLEST_GROUP}


def run_lengths(
    sources: Sequence[Source], *, model: str, revision: str | None, as_json: bool, plot: Path | None
) -> int:
    """Measure all rows and print what was found. Exit code 1 where a row could not be read or written by the template."""
    from tanren.common.models.source import resolve_source

    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise UserError(f"--plot {plot}: expected a name that ends with {' or '.join(PLOTS)}")
    if plot is not None and not plot.expanduser().absolute().parent.is_dir():
        raise UserError(f"--plot {plot}: there is no folder {plot.parent}")
    console = Console()
    scans = opened(console, sources, scan)
    named = resolve_source(model, revision)
    with console.phase("import", "transformers"):
        from tanren.common.models.load import load_tokenizer
        from tanren.common.models.packaged import loading
    with console.phase("load the tokenizer", loading(named)):
        tokenizer = load_tokenizer(named)
    found = Measured()
    for source, rows in zip(sources, scans, strict=True):
        with console.phase("measure", source.name):
            found.take(source.name, told(console, "measure", rows), tokenizer)
    if plot is not None and found.all.tokens:
        from tanren.common.data._plot import plot_lengths

        plot_lengths({name: one for name, one in found.sources.items() if one.tokens}, plot.expanduser(), model)
        console.line(f"plot: {plot}")
    if as_json:
        print_json(found.as_json(model))
    else:
        _print(found, model)
    return ExitCode.FOUND_WANTING if found.faults else ExitCode.DONE


def _print(found: Measured, model: str) -> None:
    out = Console(stream=sys.stdout)
    if found.all.tokens:
        columns = ("mean", "sd", "min", "p50", "p75", "p90", "p95", "p99", "max")
        table = new_table(f"Tokens of a row, {model}", "", "rows", *columns)
        for name, one in _lines(found):
            values = one.as_json()
            table.add_row(Text(name), str(values["rows"]), *(f"{values[column]:.0f}" for column in columns))
        out.rich.print(table)
        out.text("")
        limits = list(found.all.coverage())
        share = new_table("Rows of at most so many tokens, %", "", *(str(limit) for limit in limits))
        for name, one in _lines(found):
            covered = one.coverage()
            share.add_row(Text(name), *(percent(covered.get(limit, 1), 1) for limit in limits))
        out.rich.print(share)
        out.text("")
        for line in _recommended(found):
            out.text(line)
    say_faults(out, found.faults)


def _lines(found: Measured) -> list[tuple[str, Lengths]]:
    sources = [(Path(name).name, one) for name, one in found.sources.items() if one.tokens]
    groups = [
        *large(found.formats).items(),
        *((f"category {name}", one) for name, one in large(found.categories).items()),
    ]
    return [*sources, *groups, *([("all", found.all)] if len(sources) > 1 else [])]


def _recommended(found: Measured) -> list[str]:
    values, advice = found.all.as_json(), found.recommendation()
    learned = percent(values["supervised_tokens"], values["tokens"])
    lines = [f"{values['tokens']} tokens, {values['supervised_tokens']} of them in answers ({learned} %)"]
    if advice is None:
        return [*lines, f"no usual limit covers {COVERED:.0%} of the rows: the longest has {values['max']} tokens"]
    limit = advice["max_tokens"]
    lines.append(f"data.max_tokens = {limit} is the smallest usual limit that covers {100 * COVERED:.0f} % of the rows")
    if advice["rows"]:
        dropped, cut = (percent(advice[name], values["tokens"]) for name in ("tokens_dropped", "tokens_cut"))
        lines.append(
            f"  {advice['rows']} rows are longer: dropping them loses {dropped} % of the tokens, cutting them {cut} %"
        )
        if advice["rows_by_format"]:
            lines.append("  by format: " + ", ".join(f"{name} {n}" for name, n in advice["rows_by_format"].items()))
    return lines
