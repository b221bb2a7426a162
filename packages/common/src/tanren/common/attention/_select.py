"""Which kernel: by rule from the GPU, what is installed, and the model; the proof on the machine has the last word."""

from __future__ import annotations

from collections.abc import Mapping

from tanren.common.attention._choice import KERNELS, Choice, GpuFacts
from tanren.common.attention._traits import AttentionTraits
from tanren.common.config import AUTO
from tanren.common.errors import UserError

FA4_CAPABILITIES = {(9, 0), (10, 0), (10, 3)}
"""Where FlashAttention-4 has forward and backward kernels of its own, also in a fixed order of sums: Hopper and
Blackwell for data centres. On 12.x it falls back to Ampere's instructions and has no fixed order."""
FA4_LARGEST_HEAD = {9: 256, 10: 128}  # flash_attn/cute/interface.py, _validate_head_dims, 4.0.0b19
FLASH_LARGEST_HEAD = 256
LATENT = (192, 128)
"""Head sizes of DeepSeek's multi-head latent attention: FlashAttention-4 has a kernel for them on Blackwell."""

_AUTO = ("flash_attention_4", "varlen", "sdpa")


def select_attention(
    gpu: GpuFacts | None,
    installed: Mapping[str, str],
    traits: AttentionTraits,
    *,
    dtype: str,
    named: str = AUTO,
    failed: Mapping[str, str] | None = None,
) -> Choice:
    """Choose the kernel for training on packed samples.

    `installed` maps kernels to versions, `dtype` is that of queries and keys ('bfloat16'), `named` the kernel that the
    user asked for, `failed` the kernels whose proof failed on this machine, with the fault. Raises UserError where the
    named kernel cannot run: what was named is never replaced.
    """
    failed = failed or {}
    if traits.unpacked_layers:
        kinds = " and ".join(kind.replace("_", " ") for kind in traits.unpacked_layers)
        reason = f"{traits.model_type} has layers of {kinds}: its own attention, one sample per pass"
        if named != AUTO:
            raise UserError(f"attention '{named}' was named, and {reason}; leave the choice to 'auto'")
        return Choice("own", reason, packs=False)
    if named != AUTO:
        against = failed.get(named) or _against(named, gpu, installed, traits, dtype)
        if against:
            fitting = [k for k in KERNELS if k not in failed and not _against(k, gpu, installed, traits, dtype)]
            raise UserError(
                f"attention '{named}' was named and cannot run here: {against}; "
                f"name one of {', '.join(fitting)}, or leave the choice to 'auto'"
            )
        return Choice(named, f"named; {_about(named, gpu, installed, traits)}")
    rejected: list[tuple[str, str]] = []
    for kernel in _AUTO:
        against = failed.get(kernel) or _against(kernel, gpu, installed, traits, dtype)
        if not against:
            # Off its GPUs nobody expects FlashAttention-4: that it was passed over is no news there.
            news = [(name, why) for name, why in rejected if gpu is not None and _is_news(name, gpu, installed)]
            return Choice(kernel, _about(kernel, gpu, installed, traits), tuple(news))
        rejected.append((kernel, against))
    faults = "; ".join(f"{kernel}: {why}" for kernel, why in rejected)
    raise UserError(f"no attention kernel can run here: {faults}; look closer with `tanren doctor --deep`")


def generation_kernel(traits: AttentionTraits, named: str = AUTO) -> str:
    """Return transformers' own attention for generation, which knows padding and caches.

    Sinks and soft-capped scores are computed by its `eager` alone. Raises UserError where `sdpa` was named for them.
    """
    extras = [word for word, has in (("attention sinks", traits.sinks), ("soft-capped scores", traits.softcap)) if has]
    if named == "sdpa" and extras:
        raise UserError(
            f"attention 'sdpa' was named for generation, and {traits.model_type} has {' and '.join(extras)}, which "
            "transformers' sdpa leaves out; name 'eager', or leave the choice to 'auto'"
        )
    if named in ("sdpa", "eager"):
        return named
    return "eager" if extras else "sdpa"


def _is_news(kernel: str, gpu: GpuFacts, installed: Mapping[str, str]) -> bool:
    if kernel == "flash_attention_4":
        return gpu.compute_capability in FA4_CAPABILITIES or kernel in installed
    return True


def _against(
    kernel: str, gpu: GpuFacts | None, installed: Mapping[str, str], traits: AttentionTraits, dtype: str
) -> str:
    """Why a kernel cannot run; '' where nothing speaks against it."""
    if kernel not in installed:
        return "it is not installed"
    if kernel in ("sdpa", "eager"):
        return ""
    if gpu is None:
        return "it needs an NVIDIA GPU"
    if dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, and the model is in {dtype}"
    if extra := _missing(kernel, traits):
        return extra
    return _against_fa4(gpu, traits) if kernel == "flash_attention_4" else _against_flash(gpu, traits)


def _missing(kernel: str, traits: AttentionTraits) -> str:
    """What the model asks for and a flash kernel does not have; '' for nothing."""
    if traits.softcap:
        return f"it has no backward pass for the soft-capped scores of {traits.model_type} in packed samples"
    if traits.dropout and kernel != "flash_attention_2":
        return f"it has no dropout, and {traits.model_type} has attention_dropout {traits.dropout}"
    if traits.sinks and kernel == "flash_attention_2":
        return "its public functions give no gradient to attention sinks"
    return ""


def _against_fa4(gpu: GpuFacts, traits: AttentionTraits) -> str:
    capability = ".".join(map(str, gpu.compute_capability))
    if gpu.compute_capability not in FA4_CAPABILITIES:
        served = ", ".join(f"{major}.{minor}" for major, minor in sorted(FA4_CAPABILITIES))
        return f"it is for compute capability {served}, and {gpu.name} has {capability}"
    heads = (traits.head_dim, traits.value_dim)
    largest = FA4_LARGEST_HEAD[gpu.compute_capability[0]]
    if heads == LATENT and gpu.compute_capability[0] == 10:
        return ""
    if max(heads) > largest or traits.head_dim % 8 or traits.value_dim % 8:
        return f"it takes heads of 8 to {largest} on {capability}, divisible by 8, and the model's have {max(heads)}"
    return ""


def _against_flash(gpu: GpuFacts, traits: AttentionTraits) -> str:
    if gpu.compute_capability < (8, 0):
        capability = ".".join(map(str, gpu.compute_capability))
        return f"its kernels begin at compute capability 8.0, and {gpu.name} has {capability}"
    if traits.head_dim > FLASH_LARGEST_HEAD or traits.head_dim % 8:
        return f"it takes heads of up to {FLASH_LARGEST_HEAD}, divisible by 8, and the model's have {traits.head_dim}"
    return ""


def _about(kernel: str, gpu: GpuFacts | None, installed: Mapping[str, str], traits: AttentionTraits) -> str:
    extras = [f"windows of {window}" for window in traits.windows] + (["attention sinks"] if traits.sinks else [])
    extras += ["soft-capped scores"] if traits.softcap else []
    of = f" with {' and '.join(extras)}" if extras else ""
    if kernel == "flash_attention_4":
        return f"flash-attn-4 {installed[kernel]}, the fastest on {gpu.name if gpu else 'this GPU'}{of}"
    if kernel == "flash_attention_2":
        return f"flash-attn {installed[kernel]}{of}"
    if kernel == "varlen":
        return f"the variable-length flash kernel of torch {installed[kernel]}, grouped heads without copies{of}"
    if kernel == "eager" or traits.softcap or traits.sinks:
        return f"written-out softmax, one packed sample after the other: exact, memory grows with the square{of}"
    return f"one causal SDPA call per packed sample: exact, no padding{of}"
