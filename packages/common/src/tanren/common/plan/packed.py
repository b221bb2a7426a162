"""What the trainers' jobs share: packed micro-batches of a model, traced with the trainer's own adapter and loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from tanren.common.config import (
    AUTO,
    Checkpointing,
    Experts,
    Layers,
    LoraConfig,
    Method,
    ModelConfig,
    Quantisation,
    flatten,
)
from tanren.common.errors import UserError
from tanren.common.plan._categories import GRADIENTS
from tanren.common.plan._job import PLANNED, Choice, Layout, Load
from tanren.common.plan._target import Target

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tanren.common.attention import Choice as AttentionChoice
    from tanren.common.plan.trace import Loss, Shape, StepTrace

FIRST_TRIED = Choice(2048, "none")
"""What they stand for until the planner has chosen."""
SMALL = 0.01
"""Share of the peak below which it does not matter whether gradients are there."""


def open_settings_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings (dotted names) that a configuration leaves to the planner."""
    flat = flatten(values)
    return tuple(name for name in PLANNED if flat[name] == AUTO)


def choice_of(micro_batch_tokens: int | Literal["auto"], checkpointing: Checkpointing | Literal["auto"]) -> Choice:
    """Return the choice that a recipe's settings make."""
    return Choice(
        FIRST_TRIED.micro_batch_tokens if micro_batch_tokens == AUTO else micro_batch_tokens,
        FIRST_TRIED.checkpointing if checkpointing == AUTO else checkpointing,
    )


def precision(config: ModelConfig, target: Target) -> torch.dtype:
    """Return the precision of the frozen weights on a device (`plan_device` decides the same where the device is here)."""
    import torch

    from tanren.common.models.device import plan_device

    if target.device == "cpu":
        return plan_device(config.model_copy(update={"device": "cpu"})).torch_dtype
    if config.dtype == "auto":
        return torch.bfloat16 if target.bfloat16 else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def attention_of(named: str, shape: Shape, dtype: torch.dtype, target: Target) -> AttentionChoice:
    """Return the attention that a run would choose on a device, by rule alone.

    Of a device that is not here, the environments for GPUs are thought to be installed.
    """
    from tanren.common.attention import installed_kernels, select_attention, traits_of

    installed = dict(installed_kernels())
    if not target.here:
        installed.setdefault("flash_attention_4", "of the GPU locks")
    name = str(dtype).removeprefix("torch.")
    return select_attention(target.gpu, installed, traits_of(shape.config), dtype=name, named=named)


@dataclass(frozen=True)
class PackedJob(ABC):
    """A job whose micro-batches are packed samples."""

    shape: Shape
    dtype: torch.dtype
    kernel: AttentionChoice
    quantisation: Quantisation = field(default="none", kw_only=True)
    """Of the frozen linear layers."""
    method: Method = field(default="lora", kw_only=True)
    """What is trained: the recipe's adapter, or all parameters."""
    layers: Layers = field(default="plain", kw_only=True)
    """How the layers are computed."""
    experts: Experts = field(default="plain", kw_only=True)
    """How fused experts are computed."""
    device: str = field(default="cpu", kw_only=True)
    """Kind of device that is planned for."""
    _traces: dict[Choice, StepTrace] = field(default_factory=dict, compare=False, kw_only=True)
    _layouts: dict[Choice, Layout] = field(default_factory=dict, compare=False, kw_only=True)
    _models: dict[Checkpointing, Any] = field(default_factory=dict, compare=False, kw_only=True)

    def as_if(self, method: Method | None, quantisation: Quantisation | None) -> Self:
        """Return the same job with another method, and with the frozen linear layers in so many bits; None: the recipe's own.

        Raises UserError where the two exclude one another.
        """
        method, quantisation = method or self.method, quantisation or self.quantisation
        if method == "full" and quantisation != "none":
            raise UserError(
                f"--quantisation {quantisation} keeps frozen weights, and --method full freezes none: take one"
            )
        return replace(self, method=method, quantisation=quantisation, _traces={}, _models={})

    def trained(self, lora: LoraConfig) -> str:
        """Say what is trained."""
        if self.method == "full":
            return "all parameters"
        targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
        bits = "" if self.quantisation == "none" else f", frozen layers in {self.quantisation}"
        return f"{'DoRA' if lora.dora else 'LoRA'} rank {lora.rank} on {targets}{bits}"

    @property
    def attention(self) -> str:
        """The kernel."""
        return self.kernel.kernel

    @property
    @abstractmethod
    def longest(self) -> int:
        """Tokens of the longest sample."""

    @abstractmethod
    def laid_out(self, choice: Choice) -> Layout:
        """Lay the run out."""

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> Any:
        """Put the trainer's adapter on a model, on the model's own device."""

    @abstractmethod
    def loss(self, load: Load) -> Loss:
        """Return the trainer's loss of a micro-batch."""

    def layout(self, choice: Choice) -> Layout:
        """Return the lay-out of the run, made once."""
        if choice not in self._layouts:
            self._layouts[choice] = self.laid_out(choice)
        return self._layouts[choice]

    def phases(self, train: Mapping[str, int], target: Target) -> Mapping[str, Mapping[str, int]]:
        """Return what is in memory in each phase of the run; `train` is the peak of a training step."""
        del target
        return {"train": train}

    def facts(self, train: Mapping[str, int], target: Target) -> list[str]:
        """Return what else is to be said of the phases."""
        del train, target
        return []

    def flags(self, choice: Choice) -> Mapping[str, Any]:
        """Return the settings that freeze a choice in the recipe."""
        return dict(zip(PLANNED, (choice.micro_batch_tokens, choice.checkpointing), strict=True))

    def frozen(self, choice: Choice, train: Mapping[str, int], target: Target) -> Mapping[str, Any]:
        """Return all settings that a plan settles; `train` is the peak of a training step."""
        del train, target
        return self.flags(choice)

    def trace(self, choice: Choice) -> StepTrace:
        """Trace the micro-batch of a step that takes most memory."""
        if choice not in self._traces:
            self._traces[choice] = self._trace(choice)
        return self._traces[choice]

    def _trace(self, choice: Choice) -> StepTrace:
        from tanren.common.plan.trace import attention_stands_in, empty_model, trace_step

        def traced(load: Load, *, gradients: bool) -> StepTrace:
            with attention_stands_in(self.kernel, load.lengths, load.follows):
                if choice.checkpointing not in self._models:
                    self._models[choice.checkpointing] = self.trained_model(empty_model(self.shape, self.dtype), choice)
                return trace_step(self._models[choice.checkpointing], self.loss(load), gradients=gradients)

        layout = self.layout(choice)
        found = traced(layout.largest, gradients=layout.later is not None)
        if layout.later is None or found.peak[GRADIENTS] < SMALL * found.peak_bytes:
            return found
        # The largest micro-batch of a step is usually its first, which finds no gradients.
        first, later = traced(layout.first, gradients=False), traced(layout.later, gradients=True)
        return replace(found, peak=max(first, later, key=lambda trace: trace.peak_bytes).peak)

    def trained_model(self, model: PreTrainedModel, choice: Choice) -> torch.nn.Module:
        """Make a model of the shape what is trained: attention, adapter, checkpointing."""
        from tanren.common.experts import choose_experts
        from tanren.common.fused import choose_route

        if self.quantisation != "none":
            from tanren.common.plan.trace import quantise

            quantise(model, self.quantisation)
        prepared: torch.nn.Module = self.prepare(model)
        prepared.train()
        if self.experts != "plain":
            choose_experts(prepared, self.experts, proven=False)
        choose_route(prepared, self.layers, choice.checkpointing, self.device, proven=False)
        return prepared

    def prepare(self, model: PreTrainedModel) -> Any:
        """Make a loaded model what is trained: its attention, its adapter."""
        self.set_attention(model)
        if self.method == "full":
            model.config.use_cache = False
            return model.requires_grad_(True)
        with model.device:
            return self.attach(model)

    def set_attention(self, model: PreTrainedModel) -> None:
        """Give a model the kernel of the plan, without the proofs of a run."""
        from tanren.common.attention.packed import registered_name

        if self.kernel.packs:
            model.set_attn_implementation(registered_name(self.attention))
