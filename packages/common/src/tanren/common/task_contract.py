"""The contract between a task pack and everything that uses one (docs/tasks.md walks through it).

A pack is a folder `tasks/<name>/` with `task.toml` (what it is) and `task.py` (plain functions):

    class Options(TaskOptions): ...                                   # the pack's own settings, with defaults
    def rows(split: str, options: Options) -> list[Row]               # "train" or "heldout"
    def parse(completion: str, row: Row) -> Parsed                    # one parser for training and for evaluation
    def reward(completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]

and, where a pack has them, for `evaluate`, `evaluate score` and `evaluate submit`:

    def read_tasks(records: Sequence[Any], where: str) -> list[Row]   # tasks of an outside benchmark, a JSON list
    def score_modes(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, dict]  # other readings, by name
    def mode_values(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, list[float | None]]  # to rank by
    def vote_key(parsed: Parsed, row: Row) -> str | None              # answers of one key are the same in a majority vote; None: no vote

and, for metrics of its own beside the shares of valid and correct answers, in every evaluation:

    def measures(completion: str, row: Row) -> dict[str, Ratio]       # what one answer adds to each metric
    def mistakes(completion: str, row: Row) -> list[Mistake]          # what is wrong with one answer, by kind

Everything downstream (training, scoring, intervals, the report) works from `Row` and `Parsed` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "heldout"]


class Verdict(StrEnum):
    """What became of one completion. They are kept apart: they ask for different cures."""

    ABSENT = "absent"  # no answer of the asked kind was found
    UNPARSABLE = "unparsable"  # an answer is there, its syntax is broken
    WRONG = "wrong"  # it parses, its content is not the expected one
    CORRECT = "correct"  # it parses and its content equals the expected one
    UNCOMPARED = "uncompared"  # it parses; no content is expected with which it could be compared (`Row.compared`)


class TaskOptions(BaseModel):
    """Base of a pack's options: frozen; an unknown key is an error; the docstring under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that is learned, or only read."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row of data: the prompt, the reference answer, and what is needed to judge an answer.

    `prompt` holds the turns before the answer, `reference` the assistant's answer as text. `group` is the label by
    which results are broken down (the format, in the pack `structured`). `expected` is the gold *value*, kept beside
    the text, so that judging never depends on how the text was written. `metadata` is free and is logged.

    A row that is not `compared` (of an outside list of tasks, which has no gold answers) says nothing of the right content:
    what parses gets the verdict `uncompared`, counts as valid, and takes no part in the share of correct answers.

    A row of plain text has `segments` instead of turns: it is the text of its segments, one after the other, as it stands,
    without a chat template; `prompt` is empty, and `reference` what is learned of it.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str
    group: str
    expected: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    compared: bool = True

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation: prompt and reference answer."""
        return (*self.prompt, Message("assistant", self.reference))


@dataclass(frozen=True, slots=True)
class Parsed:
    """The judgement of one completion: its verdict, the parsed value (None unless it parses) and why it failed."""

    verdict: Verdict
    value: Any = None
    error: str = ""

    @property
    def valid(self) -> bool:
        """Syntactically valid: the answer was found and parses."""
        return self.verdict in (Verdict.WRONG, Verdict.CORRECT, Verdict.UNCOMPARED)

    @property
    def correct(self) -> bool:
        """Content correct: the parsed value equals the expected value."""
        return self.verdict is Verdict.CORRECT


@dataclass(frozen=True, slots=True)
class Ratio:
    """What one answer adds to a metric: the metric is the sum of numerators over the sum of denominators, of all answers.

    So is a rate (denominator 1), a precision (1 where something was found), a mean, an F1 (twice the hits over found and gold).
    """

    numerator: float
    denominator: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with an answer: of which kind, where in it, what was found and what was expected."""

    kind: str
    where: str
    found: str
    expected: str


class TaskModule(Protocol):
    """What `task.py` provides."""

    Options: type[TaskOptions]

    def rows(self, split: Split, options: Any) -> list[Row]:
        """Return the rows of a split, the same for the same options."""

    def parse(self, completion: str, row: Row) -> Parsed:
        """Judge one completion."""

    def reward(self, completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
        """Return one reward per completion; None means not scorable, and is excluded, never counted as 0."""
