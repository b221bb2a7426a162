"""What stands before anything is written: libraries imported, the device chosen, rows turned into good samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.common.config import AUTO
from tanren.common.console import Console
from tanren.common.coverage import check_before_loading
from tanren.common.errors import UserError
from tanren.common.models.device import set_cuda_variables
from tanren.common.models.quantised import require_bitsandbytes
from tanren.sft.plan import Plan
from tanren.sft.unsloth_engine import import_unsloth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.chat import Sample
    from tanren.common.models.device import DevicePlan
    from tanren.sft.store import TrainingSamples
    from tanren.sft.training_data import TrainingData


@dataclass(frozen=True)
class Prepared:
    """What stands before anything is written: tokenizer, device, and the rows as good samples."""

    tokenizer: PreTrainedTokenizerBase
    device: DevicePlan
    data: TrainingData
    validation: Sequence[Sample]
    """Never trained on; none where no validation is asked for."""

    @property
    def samples(self) -> TrainingSamples:
        """What is trained on."""
        return self.data.training


def prepare(plan: Plan, console: Console) -> Prepared:
    """Import the libraries, choose the device, and turn the rows into samples."""
    config = plan.config
    set_cuda_variables()
    if config.train.engine == "unsloth":
        with console.phase("import", "unsloth"):
            import_unsloth()
    with console.phase("import", "torch, transformers, peft"):
        import tanren.sft.trainer  # noqa: F401 (the heavy import, paid where it is announced)
        from tanren.common.chat import template_hash
        from tanren.common.models.device import plan_device
        from tanren.common.models.load import load_tokenizer
        from tanren.common.models.packaged import loading
        from tanren.common.optimizer import check_optimizer
        from tanren.common.parent import check_parent_template
        from tanren.sft.training_data import make_training_data
    device = plan_device(config.model)
    console.line(f"device: {device.device}, {device.dtype} ({device.reason}), {device.threads} CPU threads")
    _check_named_attention(plan, device)
    check_optimizer(config.optim, device.device)
    if config.train.method == "lora":
        require_bitsandbytes(config.model.quantisation)
        if config.model.quantisation == "fp8":
            from tanren.common.fp8 import require_fp8_here

            require_fp8_here(device)
        with console.phase("check what the adapter reaches", "without weights"):
            check_before_loading(plan.source, config.lora, config.train.experts)
    with console.phase("load tokenizer", loading(plan.source)):
        tokenizer = load_tokenizer(plan.source, config.model.chat_template)
    check_parent_template(plan.parent, config.model.parent, plan.source, template_hash(tokenizer))
    rows = plan.selection.trained
    with console.phase("render and tokenise", f"{rows} rows"), console.bar("tokenise", rows, "row") as bar:
        data = make_training_data(tokenizer, plan, bar)
    for line in data.lines():
        console.line(line)
    return Prepared(tokenizer, device, data, _validation_samples(plan, data, tokenizer, console))


def _check_named_attention(plan: Plan, device: DevicePlan) -> None:
    """Refuse a kernel that cannot run here before anything is loaded; whether it is right is proven on the model."""
    named = plan.config.train.attention
    if named == AUTO:
        return
    from tanren.common.attention import gpu_facts, installed_kernels, select_attention, traits_of
    from tanren.common.plan.trace import read_shape

    traits = traits_of(read_shape(plan.source).config)
    select_attention(gpu_facts(device.device), installed_kernels(), traits, dtype=device.dtype, named=named)


def _validation_samples(
    plan: Plan, data: TrainingData, tokenizer: PreTrainedTokenizerBase, console: Console
) -> Sequence[Sample]:
    """Return what the loss is taken on, if it is asked for: what the data keeps for it, or the task pack's held-out rows.

    A row without a token to learn has no loss: it is left out, and counted.
    """
    if not plan.config.validation.every_steps:
        return ()
    if len(data.validation):
        return data.validation
    from tanren.sft.samples import make_samples

    settings = plan.config.data.model_copy(update={"fully_masked": "drop"})
    try:
        samples, report = make_samples(tokenizer, plan.heldout_rows, settings)
    except UserError as error:
        raise UserError(f"validation: {error}") from None
    for line in report.lines():
        console.line(f"validation: {line}")
    return samples
