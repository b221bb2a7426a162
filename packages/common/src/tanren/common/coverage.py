"""What an adapter reaches of a model, and whether that is what was asked for: said before the first step.

An adapter that reaches no expert, or trains a router that nobody meant, learns all the same, and its loss falls.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.common.config import AUTO, Experts, LoraConfig
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.lora import attach_adapter
from tanren.common.models.source import ModelSource

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

ALL_LINEAR = "all-linear"
ROUTERS = ("gate", "router")
"""Last words of the names of modules that choose experts (Qwen3-MoE, Mixtral: gate; gpt-oss, Llama-4: router)."""


@dataclass(frozen=True)
class Coverage:
    """What an adapter reaches; names as in the base model."""

    kind: str
    """LoRA or DoRA, and how it is scaled."""
    modules: tuple[str, ...]
    """Linear layers with an adapter."""
    parameters: tuple[str, ...]
    """Weights with an adapter of their own: experts fused into one tensor."""
    linear: tuple[str, ...]
    """All linear layers, the output head included."""
    fused: tuple[str, ...]
    """All weights of fused experts (experts x in x out)."""
    trained: int
    every: int

    @property
    def routers(self) -> tuple[str, ...]:
        """Routers that have an adapter."""
        names = (*self.modules, *(name.removesuffix(".weight") for name in self.parameters))
        return tuple(name for name in names if name.rpartition(".")[2] in ROUTERS)

    @property
    def missed(self) -> tuple[str, ...]:
        """Fused experts without an adapter."""
        return tuple(name for name in self.fused if name not in self.parameters)

    def line(self) -> str:
        """Say it in one line."""
        said = f"{self.kind} on {len(self.modules)} of {len(self.linear)} linear layers"
        if self.fused:
            said += f" and {len(self.fused) - len(self.missed)} of {len(self.fused)} fused tensors of experts"
        if self.routers:
            said += f", {len(self.routers)} routers"
        return f"{said}: {self.trained:,} of {self.every:,} parameters are trained ({100 * self.trained / self.every:.2f} %)"


def say_coverage(model: PeftModel, lora: LoraConfig, console: Console) -> None:
    """Say what the adapter reaches. Raises UserError where that is not what was asked for (`check_coverage`)."""
    coverage = coverage_of(model)
    console.line(coverage.line())
    check_coverage(coverage, lora)


def check_before_loading(source: ModelSource, lora: LoraConfig, experts: Experts = AUTO) -> None:
    """Put the adapter on the model's shape, without weights, and check what it reaches: seconds, whatever the model's size.

    Raises UserError where that is not what was asked for, or the adapter cannot be put on this model, or its experts cannot
    be computed as they are named to be.
    """
    import torch

    from tanren.common.experts import choose_experts
    from tanren.common.plan.trace import empty_model, read_shape

    model = empty_model(read_shape(source), torch.float32)
    if isinstance(
        lora.target_modules, list
    ):  # where no name is right, the library's own message would name none that is
        names = [name for name, _ in model.named_modules()]
        linear = tuple(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
        _all_found(lora.target_modules, names, linear, "lora.target_modules")
    with model.device:
        adapted = attach_adapter(model, lora)
    check_coverage(coverage_of(adapted), lora)
    choose_experts(adapted, experts, proven=False)


def coverage_of(model: PeftModel) -> Coverage:
    """Look at a model with its adapter."""
    import torch

    base = model.get_base_model()
    linear = [
        _own(name) for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and _is_base(name)
    ]
    wrapped = [
        _own(name)
        for name, module in base.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    ]
    fused = [_own(name) for name, weight in base.named_parameters() if weight.dim() == 3 and _is_base(name)]
    parameters = tuple(model.targeted_parameter_names)
    owners = {name.rpartition(".")[0] for name in parameters}
    trained, every = model.get_nb_trainable_parameters()
    settings: Any = model.peft_config[model.active_adapter]
    return Coverage(
        kind=("DoRA" if settings.use_dora else "LoRA") + (" (rsLoRA scaling)" if settings.use_rslora else ""),
        modules=tuple(dict.fromkeys(name for name in wrapped if name not in owners)),
        parameters=parameters,
        linear=tuple(dict.fromkeys(linear)),
        fused=tuple(dict.fromkeys(fused)),
        trained=trained,
        every=every,
    )


def check_coverage(coverage: Coverage, lora: LoraConfig) -> None:
    """Raise UserError where the adapter does not reach what was asked for, or all-linear reached what nobody means by it."""
    if lora.target_modules == ALL_LINEAR:
        faults = []
        if coverage.routers:
            faults.append(f"it puts an adapter on {len(coverage.routers)} routers ({coverage.routers[0]}, ...)")
        if coverage.missed:
            faults.append(f"it misses {len(coverage.missed)} fused tensors of experts ({coverage.missed[0]}, ...)")
        if faults:
            told = " and ".join(faults)
            raise UserError(
                f"lora.target_modules = all-linear: {told}; write what you mean, as flags: {_flags(coverage)}"
            )
    elif isinstance(lora.target_modules, list):
        _all_found(
            lora.target_modules, [*coverage.modules, *coverage.parameters], coverage.linear, "lora.target_modules"
        )
    _all_found(lora.target_parameters, coverage.parameters, coverage.fused, "lora.target_parameters")


def say_gradients(trained: Mapping[str, torch.nn.Parameter], console: Console) -> None:
    """Say after the first step's backward passes which trained weights, by name, have received a gradient."""
    without = [name for name, weight in trained.items() if weight.grad is None]
    if without:
        console.warn(
            f"step 1: {len(without)} of {len(trained)} trained tensors received no gradient, {', '.join(without[:3])} among "
            "them: unless another step reaches them, they never learn"
        )
    else:
        console.line(f"step 1: all {len(trained)} trained tensors received a gradient")


def _all_found(asked: list[str], reached: tuple[str, ...] | list[str], there: tuple[str, ...], key: str) -> None:
    for name in asked:
        if not any(one == name or one.endswith(f".{name}") for one in reached):
            known = sorted(
                {
                    one.rpartition(".")[2] if key == "lora.target_modules" else ".".join(one.split(".")[-3:])
                    for one in there
                }
            )
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
            raise UserError(f"{key}: {name!r} reaches nothing in this model: {hint}")


def _flags(coverage: Coverage) -> str:
    head = {"lm_head", "embed_out", "output"}
    modules = dict.fromkeys(name.rpartition(".")[2] for name in coverage.linear)
    experts = dict.fromkeys(".".join(name.split(".")[-3:]) for name in coverage.fused)
    flags = f"--lora.target-modules {' '.join(name for name in modules if name not in {*head, *ROUTERS})}"
    return f"{flags} --lora.target-parameters {' '.join(experts)}" if experts else flags


def _is_base(name: str) -> bool:
    """Whether a name belongs to the base model, and not to the adapter."""
    return ".lora_" not in name


def _own(name: str) -> str:
    """The name without what the adapter wraps around it."""
    return name.replace(".base_layer", "")
