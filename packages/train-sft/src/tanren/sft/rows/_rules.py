"""Upsampling rules: which rows a rule of `data.upsample` matches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tanren.common.errors import UserError
from tanren.common.task_contract import Row

PACK = "pack:"
METADATA = "metadata."
# So many known values are told, and kept, of a column: one with more is no category.
MOST_VALUES = 20


@dataclass(frozen=True)
class Rule:
    """One entry of `data.upsample`."""

    text: str
    factor: float
    column: str
    value: str
    part: bool
    """Whether the value may be a part of what the column says."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a row with this metadata is one of them."""
        if self.column not in metadata:
            return False
        found = as_text(metadata[self.column])
        return self.value in found if self.part else self.value == found


def parse_rules(upsample: Mapping[str, float]) -> tuple[Rule, ...]:
    """Return the rules of a recipe. Raises UserError for one that is written wrongly or has no effect."""
    rules = tuple(_parse(text, factor) for text, factor in upsample.items())
    for rule in rules:
        if rule.factor == 1:
            raise UserError(f"data.upsample: {rule.text!r} = 1 has no effect: each row comes once as it is; remove it")
    return rules


def _parse(text: str, factor: float) -> Rule:
    if text.startswith(PACK):
        rule = Rule(text, factor, "pack", text.removeprefix(PACK), part=False)
    elif text.startswith(METADATA) and "=" in text:
        key, _, value = text.removeprefix(METADATA).partition("=")
        rule = Rule(text, factor, key, value, part=False)
    elif "=" in text:
        raise UserError(
            f'data.upsample: {text!r} is no rule; for a row\'s metadata write "{METADATA}{text}" = {factor:g}'
        )
    elif text.startswith(METADATA):
        raise UserError(f'data.upsample: {text!r} names no value; write "{text}=VALUE" = {factor:g}')
    else:
        rule = Rule(text, factor, "subcategory", text, part=True)
    if not rule.column or not rule.value.strip():
        raise UserError(
            f"data.upsample: {text!r} is no rule; expected a part of a subcategory, pack:NAME, or metadata.KEY=VALUE"
        )
    return rule


def as_text(value: Any) -> str:
    """Return a value of the metadata as a rule writes it: booleans and nothing as in JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@dataclass
class Known:
    """What the rows' metadata holds, to answer a rule that matches nothing."""

    rules: Sequence[Rule]
    columns: Counter[str] = field(default_factory=Counter)
    values: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, row: Row) -> None:
        """Take note of a row."""
        self.columns.update(row.metadata.keys())
        for rule in self.rules:
            values = self.values[rule.column]
            if rule.column in row.metadata and len(values) <= MOST_VALUES:
                values.add(as_text(row.metadata[rule.column]))

    def refuse(self, rule: Rule) -> None:
        """Raise UserError for a rule that matched no row."""
        values = sorted(self.values[rule.column])
        if values:
            more = ", ..." if len(values) > MOST_VALUES else ""
            told = f"{rule.column!r} is one of {', '.join(values[:MOST_VALUES])}{more}"
        else:
            told = f"no row has {rule.column!r}; the rows have {', '.join(sorted(self.columns)) or 'no metadata'}"
        raise UserError(f"data.upsample: {rule.text!r} matches no row to train on: {told}; correct or remove it")
