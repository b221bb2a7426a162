"""train.engine = unsloth: its FastLanguageModel loads the model and attaches the adapter; data, steps and outputs stay ours.

Nothing here imports transformers or peft at its top: unsloth replaces parts of both, and must come first in a process.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tanren.common.environments import environments_with_cuda
from tanren.common.errors import MachineError, UserError
from tanren.common.workspace import cache_folder, workspace_root
from tanren.sft.plan import Plan

if TYPE_CHECKING:
    import torch

    from tanren.common.attention import Choice
    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel

MODULE = "unsloth"
PACKING_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose forward pass unsloth 2026.10 has written itself and hands the packed samples' lengths to (models/llama.py)."""
TOLERANCE = 2e-2
"""Of a loss in bfloat16, packed against alone: another order of sums, and kernels of other shapes."""


def import_unsloth() -> None:
    """Import unsloth, the first of all libraries that it replaces parts of.

    Raises UserError where it is not installed or there is no CUDA device.
    """
    if importlib.util.find_spec(MODULE) is None:
        names = environments_with_cuda(workspace_root())
        where = f"the environments {', '.join(names)} have it" if names else "install it"
        raise UserError(
            f"train.engine = unsloth: {MODULE} is not installed here; {where}, or write train.engine = native"
        )
    import torch

    if not torch.cuda.is_available():
        raise UserError("train.engine = unsloth needs a CUDA device, and torch finds none; write train.engine = native")
    early = [name for name in ("transformers", "peft", "trl") if name in sys.modules]
    assert not early, f"{early} were imported before unsloth, which replaces parts of them"
    # It writes the code that it compiles into the current folder otherwise.
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache_folder() / "unsloth-compiled"))
    importlib.import_module(MODULE)


def load_with_unsloth(plan: Plan, device: DevicePlan) -> LoadedModel:
    """Load the recipe's model with FastLanguageModel. Raises UserError for a model whose samples it cannot pack."""
    from unsloth import FastLanguageModel

    from tanren.common.models.load import LoadedModel, model_location
    from tanren.common.models.quantised import quantised_line
    from tanren.common.plan.trace import read_shape

    config = plan.config
    kind = read_shape(plan.source).config.model_type
    if kind not in PACKING_MODELS:
        raise UserError(
            f"train.engine = unsloth packs samples of {', '.join(PACKING_MODELS)}, and {plan.source.name} is a {kind}; write "
            "train.engine = native"
        )
    quantisation = config.model.quantisation
    with model_location(plan.source) as (location, revision):
        model, _ = FastLanguageModel.from_pretrained(
            location,
            revision=revision,
            max_seq_length=config.data.max_tokens,
            dtype=device.torch_dtype,
            load_in_4bit=quantisation == "nf4",
            load_in_16bit=quantisation == "none",
            # Otherwise it takes other weights than those that were named: its own, quantised already.
            use_exact_model_name=True,
            use_gradient_checkpointing=_checkpointing(plan),
            offload_embedding=False,
            random_state=config.seed,
        )
    provenance = plan.source.provenance()
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        provenance["commit"] = commit
    if quantisation == "none":
        return LoadedModel(model, provenance)
    provenance["quantisation"] = quantisation
    return LoadedModel(model, provenance, (quantised_line(model, quantisation),))


def attach_with_unsloth(plan: Plan, loaded: LoadedModel) -> Any:
    """Attach the recipe's adapter with unsloth's kernels; it is PEFT's, and saved as such."""
    from transformers import set_seed
    from unsloth import FastLanguageModel

    lora = plan.config.lora
    set_seed(plan.config.seed)
    model = FastLanguageModel.get_peft_model(
        loaded.model,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.rslora,
        use_gradient_checkpointing=_checkpointing(plan),
        random_state=plan.config.seed,
    )
    model.peft_config["default"].base_model_name_or_path = ""
    FastLanguageModel.for_training(model, use_gradient_checkpointing=_checkpointing(plan))
    return model


def unsloth_loss(
    model: Any, samples: Sequence[Sequence[int]], learned: Sequence[Sequence[bool]], device: torch.device | str
) -> torch.Tensor:
    """Return the summed cross entropy of packed samples' learned tokens, in nats, by unsloth's fused loss.

    A sample's first token is not learned: what is before it belongs to another one.
    """
    import torch

    tokens = [token for sample in samples for token in sample]
    positions = [position for sample in samples for position in range(len(sample))]
    labels = [
        token if position and mask else -100
        for sample, masks in zip(samples, learned, strict=True)
        for position, (token, mask) in enumerate(zip(sample, masks, strict=True))
    ]
    found: torch.Tensor = model(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([positions], device=device),
        labels=torch.tensor([labels], device=device),
        packed_seq_lengths=torch.tensor([len(sample) for sample in samples], dtype=torch.int32),
        num_items_in_batch=torch.ones((), device=device),  # the sum, which the trainer divides by a step's tokens
        use_cache=False,
    ).loss
    return found


def prove_packing(model: Any, device: str) -> Choice:
    """Check on the model itself that packed samples do not see one another, and say what attends.

    Raises MachineError where they do.
    """
    import torch

    from tanren.common.attention import Choice

    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.vocab_size)
    first, other, second = (
        torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in (40, 40, 25)
    )
    was_training = model.training
    model.train()

    def loss_behind(before: list[list[int]]) -> float:
        masks = [[False] * len(sample) for sample in before] + [[True] * len(second)]
        with torch.no_grad():
            return float(unsloth_loss(model, [*before, second], masks, device))

    alone, packed, changed = loss_behind([]), loss_behind([first]), loss_behind([other])
    model.train(was_training)
    if packed != changed or not abs(packed - alone) <= TOLERANCE * alone:
        raise MachineError(
            f"train.engine = unsloth: packed samples see one another in this model: a sample's loss is {alone:.4f} alone, {packed:.4f} "
            f"behind a first one and {changed:.4f} behind a second; write train.engine = native, and report this model"
        )
    return Choice(
        "unsloth",
        "unsloth's own forward pass, which is given the samples' lengths",
        proof=f"a sample's loss is {alone:.4f} alone and {packed:.4f} behind either of two others",
    )


def _checkpointing(plan: Plan) -> str | bool:
    """`unsloth` recomputes every layer, and keeps the layers' inputs in the host's memory meanwhile."""
    return MODULE if plan.config.train.gradient_checkpointing == "full" else False
