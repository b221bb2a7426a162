"""The commands `tanren data ...`: each is a function; its docstring is its help."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from tanren.common.chat import MARKERS
from tanren.common.config import ModelConfig
from tanren.common.data._source import Source
from tanren.common.errors import ExitCode, UserError
from tanren.common.task_packs import load_command, pack_commands

ABOUT = """Look at data before it is trained on. SOURCE is a file (.jsonl, .json, .csv, each also .gz, .parquet), a dataset on the
Hugging Face hub (owner/name) or a task pack (pack:NAME); several may be named."""

Sources = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE ...")]
AsJson = Annotated[bool, tyro.conf.arg(name="json", help="Print one JSON object on standard output.")]
Split = Annotated[str, tyro.conf.arg(help="Of a hub dataset, or train or heldout of a task pack.")]
Revision = Annotated[str | None, tyro.conf.arg(help="Branch, tag or commit of a hub dataset.")]
LayoutName = Annotated[
    str, tyro.conf.arg(help="auto (by the keys of each row), messages, alpaca, segments or prompt-completion.")
]
Markers = Annotated[
    tuple[str, ...], tyro.conf.arg(help="What stands between reasoning and payload, at a line's beginning.")
]


def run_data(arguments: Sequence[str]) -> int:
    """Answer `tanren data ARGUMENTS`; return the exit code."""
    if list(arguments[:1]) == ["show"]:
        from tanren.common.data_show import run_show

        return run_show(arguments[1:])
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        return _run_of_pack(first, arguments)
    if first is None and not {"-h", "--help"} & set(arguments):
        lines = [f"  tanren data {name:<12}{_summary(command)}" for name, command in COMMANDS.items()]
        lines += [f"  tanren data {name:<12}of the task pack {folder.name}" for name, folder in pack_commands().items()]
        sys.stdout.write("\n".join(lines) + "\n")
        return ExitCode.DONE
    return int(
        tyro.extras.subcommand_cli_from_dict(COMMANDS, args=list(arguments), prog="tanren data", description=ABOUT)
    )


def _run_of_pack(name: str, arguments: Sequence[str]) -> int:
    """Answer a command that a task pack adds."""
    known = pack_commands()
    if name not in known:
        names = [*COMMANDS, *known]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        raise UserError(f"tanren data {name!r}: {hint}")
    rest = list(arguments)
    rest.remove(name)
    return int(tyro.cli(load_command(name, known[name]), args=rest, prog=f"tanren data {name}"))


def _summary(command: Callable[..., int]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _named(names: Sequence[str], split: str, revision: str | None, layout: str) -> list[Source]:
    if not names:
        raise UserError("no source is named: expected files, hub datasets (owner/name) or task packs (pack:NAME)")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise UserError(f"{', '.join(twice)}: named twice; its rows would be counted twice")
    return [Source(name, split, revision, layout) for name in names]


def show() -> int:
    """Print samples of a recipe as they are trained on, with what is learned marked (`tanren data show --help`)."""
    raise AssertionError("answered before the parser is asked")


def inspect(
    sources: Sources,
    *,
    split: Split = "train",
    revision: Revision = None,
    layout: LayoutName = "auto",
    markers: Markers = MARKERS,
    as_json: AsJson = False,
) -> int:
    """Say what is in the sources: rows, layouts, keys, roles, formats, markers, metadata, and what cannot be read.

    Args:
        sources: What to look at, all rows of it.
    """
    from tanren.common.data._inspect import run_inspect

    return run_inspect(_named(sources, split, revision, layout), markers, as_json=as_json)


def validate(
    sources: Sources,
    *,
    split: Split = "train",
    revision: Revision = None,
    layout: LayoutName = "auto",
    markers: Markers = MARKERS,
    max_errors: int | None = None,
    format: str | None = None,  # noqa: A002 (the flag's name)
    show_rows: int | None = None,
    as_json: AsJson = False,
) -> int:
    """Check that every payload is valid in the format that its row names: JSON, YAML, TOML, XML or CSV.

    The format of a row: `metadata.format`, else what stands behind `_to_` in `subcategory`, else `category`. The payload:
    what stands behind the marker, else the whole answer. Exit code 0: every row is valid; 1: not every one.

    Args:
        sources: What to check, all rows of it.
        max_errors: How many errors are listed (default: 10).
        format: Show failing rows of this format alone.
        show_rows: Show so many failing rows: error, beginning of prompt and payload.
    """
    from tanren.common.data._validate import run_validate

    named = _named(sources, split, revision, layout)
    return run_validate(named, markers, as_json=as_json, max_errors=max_errors, only=format, show_rows=show_rows)


def lengths(
    sources: Sources,
    *,
    split: Split = "train",
    revision: Revision = None,
    layout: LayoutName = "auto",
    model: str = ModelConfig().name,
    model_revision: str | None = None,
    plot: Path | None = None,
    as_json: AsJson = False,
) -> int:
    """Measure rows in tokens, with the tokenizer and chat template of the model, and recommend data.max_tokens.

    Args:
        sources: What to measure, all rows of it.
        model: Whose tokenizer and template: `builtin:NAME`, a folder or a hub id, as in a recipe.
        model_revision: Branch, tag or commit of a hub model.
        plot: Also draw the distributions into this file (.png or .svg).
    """
    from tanren.common.data._lengths import run_lengths

    named = _named(sources, split, revision, layout)
    return run_lengths(named, model=model, revision=model_revision, as_json=as_json, plot=plot)


def duplicates(
    sources: Sources,
    *,
    split: Split = "train",
    revision: Revision = None,
    layout: LayoutName = "auto",
    validation_share: float = 0.05,
    seed: int = 3407,
    as_json: AsJson = False,
) -> int:
    """Count prompts that come again, answers that contradict one another, and what a split into rows would leak.

    Two prompts are the same if all turns before the answer are. Several sources are looked at together, as they would be
    trained on; the prompts that two of them share are counted.

    Args:
        sources: Where to look, in all rows.
        validation_share: Share of the rows that the split holds out.
        seed: Of the one split into rows that is drawn beside the expectation over all.
    """
    from tanren.common.data._duplicates import run_duplicates

    named = _named(sources, split, revision, layout)
    return run_duplicates(named, validation_share=validation_share, seed=seed, as_json=as_json)


COMMANDS: dict[str, Callable[..., int]] = {
    "inspect": inspect,
    "validate": validate,
    "lengths": lengths,
    "duplicates": duplicates,
    "show": show,
}
