"""From sources to a selection: mixed, split, upsampled, laid into phases, with an account of every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.sft.config import DataConfig
from tanren.sft.rows._draw import shuffled
from tanren.sft.rows._mix import asked_of, mix_lines
from tanren.sft.rows._phases import factors_by_phase
from tanren.sft.rows._rules import Rule, parse_rules
from tanren.sft.rows._sources import RowSource, named_sources
from tanren.sft.rows._split import split_by_prompt
from tanren.sft.rows._survey import Survey, survey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_LISTED = 10


@dataclass(frozen=True)
class Selection:
    """Which rows of the sources are trained on, and which are for validation."""

    sources: tuple[RowSource, ...] = ()
    counts: tuple[int, ...] = ()
    """Rows of each source."""
    times: tuple[NDArray[np.uint16], ...] = ()
    """For each phase how often each row of all sources comes in one pass; empty: one phase, every row once."""
    held: NDArray[np.bool_] | None = None
    """Which of the rows are kept for validation."""
    validation_sources: tuple[RowSource, ...] = ()
    validation_counts: tuple[int, ...] = ()
    lines: tuple[str, ...] = ()
    """The account, for people."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows in one pass of each phase."""
        return tuple(int(times.sum()) for times in self.times) or (sum(self.counts),)

    @property
    def validation_size(self) -> int:
        """Rows for validation."""
        return sum(self.validation_counts) + (0 if self.held is None else int(self.held.sum()))

    def training_rows(self) -> Iterator[tuple[RowSource, Row, tuple[int, ...]]]:
        """Read every row that is trained on, in the order of the sources, with how often it comes in one pass of each phase."""
        for place, source, row in _numbered(self.sources, self.counts):
            times = tuple(int(one[place]) for one in self.times) or (1,)
            if any(times):
                yield source, row, times

    def validation_rows(self) -> Iterator[tuple[RowSource, Row]]:
        """Read every row for validation."""
        if self.held is not None:
            for place, source, row in _numbered(self.sources, self.counts):
                if self.held[place]:
                    yield source, row
        for _, source, row in _numbered(self.validation_sources, self.validation_counts):
            yield source, row


def select_rows(sources: Sequence[RowSource], config: DataConfig, seed: int) -> Selection:
    """Read the sources once and decide. Raises UserError for what cannot be had exactly as it is written."""
    sources = tuple(sources)
    rules = parse_rules(config.upsample)
    factors = factors_by_phase(config.phases, [source.label for source in sources])
    validation_sources = named_sources(config.validation)
    prompts = bool(config.validation_share or validation_sources)
    found = survey(sources, rules, prompts=prompts)
    lines: list[str] = []
    plain = config.total == "all" and not rules and not config.phases and not prompts
    if plain:
        if len(sources) > 1:
            lines += mix_lines(sources, found.counts, None, found.counts)
        return Selection(sources, found.counts, lines=tuple(lines))
    import numpy as np

    taken = (
        np.ones(found.rows, dtype=bool) if config.total == "all" else _drawn(sources, found, config.total, seed, lines)
    )
    if config.total == "all" and len(sources) > 1:
        lines += mix_lines(sources, found.counts, None, found.counts)
    held = None
    if config.validation_share:
        keys = np.array(found.keys, dtype=np.uint64)
        held = np.zeros(found.rows, dtype=bool)
        held[taken], told = split_by_prompt(keys[taken], config.validation_share, seed)
        lines += told
        taken &= ~held
    validation_counts: tuple[int, ...] = ()
    if validation_sources:
        validation_counts = _apart(validation_sources, np.array(found.keys, dtype=np.uint64)[taken])
        lines.append(f"{sum(validation_counts)} rows for validation; none of their prompts is trained on")
    times = _times(found, taken, rules, factors, seed, lines)
    if config.phases:
        lines += _phase_lines(config, sources, found, times)
    return Selection(sources, found.counts, times, held, validation_sources, validation_counts, tuple(lines))


def _drawn(sources: Sequence[RowSource], found: Survey, total: int, seed: int, lines: list[str]) -> NDArray[np.bool_]:
    import numpy as np

    asked = asked_of(sources, found.counts, total)
    if not all(asked):
        empty = [source.label for source, rows in zip(sources, asked, strict=True) if not rows]
        raise UserError(f"data.total = {total} leaves no row of {', '.join(empty)}; raise it, or remove that source")
    taken = np.zeros(found.rows, dtype=bool)
    first = 0
    for source, count, rows in zip(sources, found.counts, asked, strict=True):
        taken[first + np.array(shuffled(count, f"{seed}-mix-{source.label}")[:rows], dtype=np.int64)] = True
        first += count
    lines += mix_lines(sources, found.counts, asked, asked)
    return taken


def _times(
    found: Survey,
    taken: NDArray[np.bool_],
    rules: Sequence[Rule],
    factors: Sequence[Sequence[float]],
    seed: int,
    lines: list[str],
) -> tuple[NDArray[np.uint16], ...]:
    import numpy as np

    from tanren.sft.rows._repeat import times_of

    match, source = found.match_of()[taken], found.source_of()[taken]
    by_match = [_weight(rules, matched) for matched in found.matches]
    for place, rule in enumerate(rules):
        if not any(found.matches[one][place] for one in np.unique(match)):
            found.known.refuse(rule)
    if rules and len({by_match[one] for one in np.unique(match)}) == 1:
        raise UserError(
            f"data.upsample has no effect: every row to train on has the factor {by_match[match[0]]:g}; for more passes raise "
            "train.epochs, for fewer rows lower data.total"
        )
    groups = source * len(by_match) + match
    names = [f"{one}-{_name(rules, matched)}" for one in range(len(found.counts)) for matched in found.matches]
    all_times = []
    for phase, by_source in enumerate(factors):
        weights = [factor * weight for factor in by_source for weight in by_match]
        times = np.zeros(found.rows, dtype=np.uint16)
        times[taken] = times_of(groups, weights, names, f"{seed}-times-{phase}")
        if not times.any():
            raise UserError(f"data.phases[{phase}]: its factors leave no row; raise them")
        all_times.append(times)
    if rules:
        lines += _rule_lines(found, rules, match, [times[taken] for times in all_times])
    return tuple(all_times)


def _weight(rules: Sequence[Rule], matched: Sequence[bool]) -> float:
    weight = 1.0
    for rule, hit in zip(rules, matched, strict=True):
        weight *= rule.factor if hit else 1.0
    return weight


def _name(rules: Sequence[Rule], matched: Sequence[bool]) -> str:
    return "&".join(rule.text for rule, hit in zip(rules, matched, strict=True) if hit)


def _rule_lines(
    found: Survey, rules: Sequence[Rule], match: NDArray[np.int64], times: Sequence[NDArray[np.uint16]]
) -> list[str]:
    import numpy as np

    width = max(len(rule.text) for rule in rules)
    lines = [f"  {'upsampling rule':<{max(width, 15)}} {'factor':>7} {'rows':>9} {'after':>9}"]
    for place, rule in enumerate(rules):
        hit = np.array([matched[place] for matched in found.matches])[match]
        after = "/".join(str(int(one[hit].sum())) for one in times)
        lines.append(f"  {rule.text:<{max(width, 15)}} {rule.factor:>7g} {int(hit.sum()):>9} {after:>9}")
    after = "/".join(str(int(one.sum())) for one in times)
    lines.append(f"  {'all rows':<{max(width, 15)}} {'':>7} {len(match):>9} {after:>9}")
    return lines


def _phase_lines(
    config: DataConfig, sources: Sequence[RowSource], found: Survey, times: Sequence[NDArray[np.uint16]]
) -> list[str]:
    import numpy as np

    lines = []
    ends = np.cumsum(found.counts)
    for place, (phase, one) in enumerate(zip(config.phases, times, strict=True)):
        rows = [int(part.sum()) for part in np.split(one, ends[:-1])]
        told = ", ".join(f"{source.label} {count}" for source, count in zip(sources, rows, strict=True) if count)
        length = f"{phase.share:.0%} of the steps" if phase.share else f"{phase.epochs or 1:g} passes"
        lines.append(f"phase {place + 1}: {sum(rows)} rows a pass ({told}), {length}")
    return lines


def _apart(sources: Sequence[RowSource], trained: NDArray[np.uint64]) -> tuple[int, ...]:
    """Count the rows of the validation sources. Raises UserError for those whose prompt is trained on, too."""
    import numpy as np

    found = survey(sources, (), prompts=True)
    both = np.isin(np.array(found.keys, dtype=np.uint64), trained)
    if both.any():
        first = set(np.flatnonzero(both)[:MOST_LISTED].tolist())
        listed = [
            f"  {row.id} of {source.label}" for place, source, row in _numbered(sources, found.counts) if place in first
        ]
        more = f"\n  ... and {int(both.sum()) - MOST_LISTED} more" if both.sum() > MOST_LISTED else ""
        raise UserError(
            f"data.validation: {int(both.sum())} of {found.rows} rows have a prompt that is trained on, too, so their loss would "
            "say nothing; remove them on one side, or let data.validation_share split the rows by prompt:\n"
            + "\n".join(listed)
            + more
        )
    return found.counts


def _numbered(sources: Sequence[RowSource], counts: Sequence[int]) -> Iterator[tuple[int, RowSource, Row]]:
    """Read the rows again, each with its number. Raises UserError where there are others than before."""
    place = 0
    for source, count in zip(sources, counts, strict=True):
        first = place
        for row in source.read():
            if place - first < count:
                yield place, source, row
            place += 1
        if place - first != count:
            raise UserError(
                f"the source {source.label} was changed while it was read: {count} rows at first, {place - first} now; start again"
            )
