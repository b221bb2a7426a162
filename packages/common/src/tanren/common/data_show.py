"""`tanren data show [RECIPE.toml]`: samples as they are trained on, with what the model learns of them marked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from rich.text import Text

from tanren.common.config import Loaded
from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.recipe_command import RecipeCommand, read_arguments, take_switch, take_value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.chat import Sample

GROUP = "tanren.samples"
DEFAULT = "train-sft"
ROWS = 3
OPEN, CLOSE = "⟦", "⟧"

HELP = f"""Prints the first samples of a recipe as they are trained on, with what is learned of them marked.

On a terminal what is learned is green, what is only read is grey; elsewhere {OPEN}what is learned{CLOSE} stands in brackets.

--rows N: how many (default: {ROWS}). --row ID: this one alone, by the name that errors and reports give it.

--json: one JSON object on standard output."""


class SampleSource(Protocol):
    """The entry point of a trainer."""

    @property
    def command(self) -> RecipeCommand:
        """The trainer's command: its configuration and its default recipe."""

    def samples(self, loaded: Loaded[Any]) -> tuple[PreTrainedTokenizerBase, Sequence[Sample], list[str]]:
        """Return the tokenizer, the samples, and lines that say what became of the rows."""


@dataclass(frozen=True)
class Run:
    """Tokens in a row that are all learned, or all only read."""

    learned: bool
    tokens: int
    text: str


def run_show(arguments: Sequence[str]) -> int:
    """Answer `tanren data show`; return the exit code."""
    rest = list(arguments)
    count, row = _count(take_value(rest, "--rows", "N")), take_value(rest, "--row", "ID")
    as_json = take_switch(rest, "--json")
    source = _find_source()
    request = read_arguments(
        replace(source.command, prog="tanren data show", description=HELP, resumable=False, runs_stages=False), rest
    )
    if request is None:
        return ExitCode.DONE
    if request.dry_run:
        raise UserError("--dry-run has no effect here: nothing is trained")
    console = Console()
    with console.phase("render and tokenise"):
        tokenizer, samples, lines = source.samples(request.loaded)
    shown = [sample for sample in samples if sample.row_id == row] if row else samples[:count]
    if not shown:
        raise UserError(f"--row {row!r}: no sample of that name; the first are {[one.row_id for one in samples[:5]]}")
    if as_json:
        json.dump(
            {"samples": [_as_json(tokenizer, one) for one in shown], "report": lines},
            sys.stdout,
            ensure_ascii=False,
            indent=2,
        )
        sys.stdout.write("\n")
        return ExitCode.DONE
    out = Console(stream=sys.stdout)
    for sample in shown:
        out.text(headline(sample), style="bold")
        out.rich.print(marked(runs(tokenizer, sample), coloured=out.live))
    for line in lines:
        out.text(line)
    return ExitCode.DONE


def runs(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> Iterator[Run]:
    """Yield a sample's tokens in runs of one label; the first token is never learned: nothing stands before it."""
    labels = [False, *sample.loss_mask[1:]]
    for learned, pairs in groupby(zip(labels, sample.input_ids, strict=True), key=lambda pair: pair[0]):
        ids = [token for _, token in pairs]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Run(learned, len(ids), str(text))


def headline(sample: Sample) -> str:
    """Say which sample it is, and how much of it is learned."""
    length = len(sample.input_ids)
    return (
        f"--- {sample.row_id}: {length} tokens, {sample.supervised} learned ({100 * sample.supervised / length:.0f} %)"
    )


def marked(parts: Iterator[Run], *, coloured: bool) -> Text:
    """Return the text with its learned runs in green, or in brackets."""
    text = Text(no_wrap=False, overflow="fold")
    for part in parts:
        if coloured:
            text.append(part.text, style="bold green" if part.learned else "dim")
        else:
            text.append(f"{OPEN}{part.text}{CLOSE}" if part.learned else part.text)
    return text


def _as_json(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> dict[str, Any]:
    parts = [{"learned": part.learned, "tokens": part.tokens, "text": part.text} for part in runs(tokenizer, sample)]
    return {"row": sample.row_id, "tokens": len(sample.input_ids), "learned": sample.supervised, "runs": parts}


def _count(text: str | None) -> int:
    if text is None:
        return ROWS
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--rows {text!r}: expected how many samples to print, 1 or more")
    return int(text)


def _find_source() -> SampleSource:
    for point in entry_points(group=GROUP, name=DEFAULT):
        found: SampleSource = point.load()
        return found
    raise UserError(f"no samples of {DEFAULT} can be had: install packages/train-sft (entry point group {GROUP})")
