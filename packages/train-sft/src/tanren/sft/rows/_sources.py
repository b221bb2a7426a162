"""The sources of a recipe: what each is called, and how its rows are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tanren.common.data import Source, read_rows, settle
from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.sft.config import DataConfig, SourceConfig


@dataclass(frozen=True)
class RowSource:
    """One source: its name in reports and phases, its weight, and a function that reads its rows anew from the first."""

    label: str
    read: Callable[[], Iterator[Row]]
    weight: float = 1.0
    hub: Source | None = None
    """The hub dataset that it is, if it is one: its files are fetched before its first row."""

    @property
    def key(self) -> str:
        """What draws depend on: the last part of the name, so that the same file elsewhere gives the same rows."""
        return self.label.rpartition("/")[2]

    @property
    def commit(self) -> str | None:
        """The commit that a hub dataset is read at; None for other sources."""
        return None if self.hub is None else settle(self.hub).revision


def recipe_sources(config: DataConfig) -> tuple[RowSource, ...]:
    """Return the sources of rows to train on that a recipe names; none means the task pack's rows."""
    if config.file is not None:
        return (RowSource(config.file.name, partial(read_rows, Source.of_file(config.file))),)
    return named_sources(config.sources)


def named_sources(configs: Sequence[SourceConfig]) -> tuple[RowSource, ...]:
    """Return sources with labels that tell them apart. Raises UserError for one that is given twice."""
    names = Counter(config.name for config in configs)
    places = Counter((config.name, config.split, config.revision) for config in configs)
    for (name, split, _), times in places.items():
        if times > 1:
            raise UserError(
                f"the source {name} (split {split}) is given {times} times: its rows would be repeated; give it once, and "
                "write data.upsample or data.phases for rows that are to come more often"
            )
    return tuple(
        _source(config, config.name if names[config.name] == 1 else f"{config.name}[{config.split}]")
        for config in configs
    )


def listed_source(label: str, rows: Sequence[Row]) -> RowSource:
    """Return rows that are in memory already as a source."""
    return RowSource(label, lambda: iter(rows))


def _source(config: SourceConfig, label: str) -> RowSource:
    source = Source(config.name, config.split, config.revision, config.layout)
    return RowSource(label, partial(read_rows, source), config.weight, source if source.kind == "hub" else None)
