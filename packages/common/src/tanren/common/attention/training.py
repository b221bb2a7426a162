"""The attention of a model in training: chosen by rule, proven on this machine, and then on the model itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tanren.common.attention._choice import Choice, gpu_facts, installed_kernels
from tanren.common.attention._proof import prove_kernel
from tanren.common.attention._select import select_attention
from tanren.common.attention._traits import AttentionTraits, traits_of
from tanren.common.attention.packed import packing_arguments, registered_name
from tanren.common.config import AUTO
from tanren.common.errors import MachineError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_LIMITS = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""Of ||found - expected|| / ||expected|| of the last hidden state, for half of a sample's tokens: a rounding may send
single tokens of a mixture of experts to another expert. Tens of layers in bfloat16 end between 1e-2 and 5e-2; samples
that see each other, near 1."""
LARGEST_WINDOW = 1024
"""Tokens; the check does not reach across larger ones, for it must fit beside the weights."""


def choose_training_attention(model: PreTrainedModel, named: str = AUTO) -> Choice:
    """Choose, prove and set the model's attention for packed training.

    `auto` steps down to the next kernel where a proof fails, and the choice says so. Raises UserError where a kernel
    that was named cannot run or fails its proof, MachineError where attention within the model differs from its own.
    """
    device, dtype = str(model.device), str(model.dtype).removeprefix("torch.")
    traits, gpu, installed = traits_of(model.config), gpu_facts(device), installed_kernels()
    failed: dict[str, str] = {}
    while True:
        choice = select_attention(gpu, installed, traits, dtype=dtype, named=named, failed=failed)
        if not choice.packs:
            return replace(choice, kernel=str(model.config._attn_implementation))
        proof = prove_kernel(choice.kernel, device, traits, dtype, deterministic=True)  # as the trainers run
        if proof.good:
            break
        failed[choice.kernel] = f"its proof failed: {proof.fault}"
        if named != AUTO:
            raise UserError(
                f"attention '{named}' was named, and {failed[named]}; leave the choice to 'auto', or look closer: tanren doctor --deep"
            )
    _use(model, choice.kernel, traits)
    return replace(choice, proof=str(proof))


def _use(model: PreTrainedModel, kernel: str, traits: AttentionTraits) -> None:
    """Set the kernel, and check on the model itself that packed samples come out as they do alone with its own attention.

    This sees what no rule does: a model that hands its windows on in a way of its own, or drops the lengths.
    """
    windows = [window for window in traits.windows if window <= LARGEST_WINDOW]
    lengths = [2 * max(windows, default=20) + 9, 7]  # so that most tokens have more before them than they may see
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    samples = [torch.randint(0, vocabulary, (1, length), generator=generator).to(model.device) for length in lengths]
    was_training = model.training
    model.eval()
    backbone = model.base_model
    with torch.no_grad():
        alone = [backbone(input_ids=ids, use_cache=False).last_hidden_state for ids in samples]
        model.set_attn_implementation(registered_name(kernel))
        together = backbone(
            input_ids=torch.cat(samples, dim=1),
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None].to(model.device),
            use_cache=False,
            **packing_arguments(lengths, model.device),
        ).last_hidden_state
    model.train(was_training)
    for found, expected in zip(together.split(lengths, dim=1), alone, strict=True):
        error = float(((found - expected).double().norm(dim=-1) / expected.double().norm(dim=-1)).median())
        limit = MODEL_LIMITS[model.dtype]
        if not error <= limit:
            raise MachineError(
                f"attention '{kernel}' within {traits.model_type}: packed samples differ from the model's own attention by "
                f"{error:.1e}, over the limit of {limit:.0e}; name another one (--train.attention eager), and report this model"
            )
