"""What a trainer gives the planner: how its recipe lays out a run, and its own training step to trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from tanren.common.config import Checkpointing, Loaded, Method, Quantisation
from tanren.common.errors import UserError
from tanren.common.recipe_command import RecipeCommand

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tanren.common.plan._empty import Shape
    from tanren.common.plan._step import Loss, StepTrace
    from tanren.common.plan._target import Target

GROUP = "tanren.planners"
MICRO_BATCH_TOKENS, CHECKPOINTING = PLANNED = ("train.micro_batch_tokens", "train.gradient_checkpointing")
"""Settings that may be left to the planner."""


@dataclass(frozen=True)
class Choice:
    """What the planner may choose."""

    micro_batch_tokens: int
    checkpointing: Checkpointing


@dataclass(frozen=True)
class Load:
    """What one micro-batch holds, as far as memory goes."""

    lengths: tuple[int, ...]
    """Of its samples, in tokens."""
    supervised: int
    """Learned tokens."""
    follows: tuple[bool, ...] = ()
    """Of each sample, whether it goes on from the last one before it that does not; empty: none does."""

    @property
    def tokens(self) -> int:
        """Of all samples."""
        return sum(self.lengths)


@dataclass(frozen=True)
class Layout:
    """What a run consists of."""

    steps: int
    micro_batches: tuple[int, ...]
    """Tokens of each, in order."""
    tokens: int
    supervised: int
    first: Load
    """The largest of those that begin a step: no gradients are there yet."""
    later: Load | None
    """The largest of the others, which find the gradients of those before them; None where each step has one."""

    @property
    def largest(self) -> Load:
        """The larger of the two."""
        return max((self.first, self.later or self.first), key=lambda load: load.tokens)


@dataclass(frozen=True)
class Change:
    """A change of the recipe that takes less memory."""

    flags: str
    """Ready to paste."""
    job: Job


class Job(Protocol):
    """A trainer's recipe, as the planner sees it."""

    @property
    def title(self) -> str:
        """What is trained, on one line: 'LoRA rank 16 on all-linear'."""

    @property
    def shape(self) -> Shape:
        """The model."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""

    @property
    def attention(self) -> str:
        """The kernel."""

    @property
    def choice(self) -> Choice:
        """The recipe's own."""

    @property
    def open_settings(self) -> tuple[str, ...]:
        """Settings (dotted names) that the recipe leaves to the planner."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""

    @property
    def largest_step(self) -> int:
        """Tokens that one micro-batch can hold at most: those of the largest step, or one sample where samples are not packed."""

    @property
    def quantisation(self) -> Quantisation:
        """Of the frozen linear layers."""

    def as_if(self, method: Method | None, quantisation: Quantisation | None) -> Job:
        """Return the same job with another method, and with the frozen linear layers in so many bits; None: the recipe's own."""

    def layout(self, choice: Choice) -> Layout:
        """Lay the run out."""

    def trace(self, choice: Choice) -> StepTrace:
        """Trace the micro-batch of a step that takes most memory."""

    def trained_model(self, model: PreTrainedModel, choice: Choice) -> torch.nn.Module:
        """Make a model of the shape what is trained: attention, adapter, checkpointing."""

    def loss(self, load: Load) -> Loss:
        """Return the trainer's loss of a micro-batch: it takes model and device."""

    def flags(self, choice: Choice) -> Mapping[str, Any]:
        """Return the settings (dotted names) that freeze a choice in the recipe."""

    def phases(self, train: Mapping[str, int], target: Target) -> Mapping[str, Mapping[str, int]]:
        """Return what is in memory in each phase of the run, in bytes; `train` is the peak of a training step."""

    def frozen(self, choice: Choice, train: Mapping[str, int], target: Target) -> Mapping[str, Any]:
        """Return all settings that a plan settles; `train` is the peak of a training step."""

    def facts(self, train: Mapping[str, int], target: Target) -> list[str]:
        """Return what else is to be said of the phases."""

    def changes(self) -> list[Change]:
        """Return changes that take less memory, other than another choice."""


class Planner(Protocol):
    """The entry point of a trainer (group `tanren.planners`)."""

    @property
    def command(self) -> RecipeCommand:
        """The trainer's command: its configuration and its default recipe."""

    def job(self, loaded: Loaded[Any], target: Target) -> Job:
        """Read what the plan needs: configuration of the model, rows; no weights."""


def find_planner(name: str) -> Planner:
    """Return the planner of a trainer's command. Raises UserError if none of that name is installed."""
    points = entry_points(group=GROUP)
    for point in points:
        if point.name == name:
            planner: Planner = point.load()
            return planner
    known = ", ".join(sorted(points.names)) or "none"
    raise UserError(f"--for {name!r}: no such planner is installed; known: {known}")
