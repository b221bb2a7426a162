"""The contract between a task pack whose actions act on a plant, and `evaluate control`, which closes the loop.

Such a pack names a function in `task.toml` (`control = "module:function"`):

    def weeks(files, *, generate, seed, initial_kwh, prompt) -> list[Week]

It raises UserError for what is wrong in the files or the settings. A `Week` begins as many episodes as are asked for; an
`Episode` stands at a decision until it is decided, and at the end knows what it came to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tanren.common.task_contract import Parsed, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIMAL = "optimal"
"""The policy that every week has: its outcome is what the others are compared with."""


@dataclass(frozen=True, slots=True)
class ControlOutcome:
    """What an episode came to."""

    net_kg_co2: float
    """Emitted, less what is credited at the end. Says nothing without the next."""
    unserved_kwh: float
    """Demand that was not served."""
    penalised_kg_co2: float
    """Both together, each kWh unserved with its penalty: what is minimised."""
    actions: tuple[int | None, ...]
    """None where there was no decision."""


class Episode(Protocol):
    """A week under control."""

    @property
    def done(self) -> bool:
        """No decision is left."""

    def row(self) -> Row:
        """Return the prompt of the decision that waits, as a row of the pack, so that its own parser judges the answer."""

    def state(self) -> Mapping[str, Any]:
        """Return what the decision log says of the hour that waits."""

    def decide(self, action: int | None) -> Mapping[str, Any]:
        """Take an action and return what happened; None: no decision was made, and the plant does what `no_decision` says."""

    def outcome(self) -> ControlOutcome:
        """Return what it came to, once all is decided."""


class Week(Protocol):
    """What is controlled: the same conditions for every policy."""

    @property
    def name(self) -> str:
        """Unique among those that are controlled together."""

    @property
    def decisions(self) -> int:
        """How many an episode has; the same for all weeks of a pack."""

    @property
    def policies(self) -> Sequence[str]:
        """Names of the policies that need no model, `OPTIMAL` among them."""

    @property
    def no_decision(self) -> str:
        """What the plant does in an hour without a decision, as a clause for the report."""

    def begin(self) -> Episode:
        """Return a new episode."""

    def action(self, policy: str, episode: Episode) -> int:
        """Return what one of `policies` does now."""

    def figure(self, episodes: Mapping[str, Episode]) -> Figure:
        """Draw finished episodes of this week, by the names of their policies."""


class ControlTask(Protocol):
    """The function that a pack names."""

    def __call__(
        self, files: Sequence[Path], *, generate: int, seed: int, initial_kwh: float, prompt: Literal["full", "short"]
    ) -> Sequence[Week]:
        """Return the weeks of these files, or so many that are made from the seed."""


class Parser(Protocol):
    """The parser of a pack."""

    def __call__(self, completion: str, row: Row) -> Parsed:
        """Judge one completion; the value of a valid one is the action."""
