"""What a model asks of its attention, read from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PACKED_LAYERS = {"full_attention", "sliding_attention"}
"""Layers whose packed samples our kernels keep apart. Chunked ones say their chunks in a mask alone, recurrent ones
(linear attention, Mamba) carry a state from one sample into the next."""
SINKS = {"gpt_oss"}
"""Model types with a learned attention sink for each head (s_aux)."""


@dataclass(frozen=True)
class AttentionTraits:
    """The shape and the extras of a model's attention."""

    heads: int
    kv_heads: int
    head_dim: int
    """Of queries and keys."""
    value_dim: int
    """Of values: smaller than head_dim with multi-head latent attention."""
    windows: tuple[int, ...] = ()
    """Sizes of its sliding windows, in tokens with the token itself; () for none."""
    sinks: bool = False
    softcap: float = 0.0
    """Scores are squeezed into +-softcap by tanh; 0 for not."""
    dropout: float = 0.0
    """On the attention weights in training."""
    unpacked_layers: tuple[str, ...] = ()
    """Kinds of layers that no kernel here can keep packed samples apart in."""
    model_type: str = ""


def traits_of(config: Any) -> AttentionTraits:
    """Return the traits of a transformers configuration (its text part, for a model of several kinds)."""
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    if getattr(text, "qk_nope_head_dim", None):  # multi-head latent attention
        head_dim = int(text.qk_nope_head_dim) + int(text.qk_rope_head_dim)
    kinds = list(dict.fromkeys(getattr(text, "layer_types", None) or _kinds_without_a_list(text)))
    window = getattr(text, "sliding_window", None)
    return AttentionTraits(
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=head_dim,
        value_dim=int(getattr(text, "v_head_dim", None) or head_dim),
        windows=(int(window),) if window and "sliding_attention" in kinds else (),
        sinks=text.model_type in SINKS,
        softcap=float(getattr(text, "attn_logit_softcapping", None) or 0.0),
        dropout=float(getattr(text, "attention_dropout", None) or 0.0),
        unpacked_layers=tuple(kind for kind in kinds if kind not in PACKED_LAYERS),
        model_type=text.model_type,
    )


def _kinds_without_a_list(text: Any) -> list[str]:
    """Of older models: every layer has the window, where there is one that is not switched off (Qwen2's switch)."""
    windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return ["sliding_attention" if windowed else "full_attention"]
