"""The fused way through a model that a Llama-like library class describes; the library's own way stays as it is.

The weights are the model's own, so evaluation, generation, saving and resuming know nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tanren.common.adapted import base_of
from tanren.common.attention.packed import is_packed, packing_arguments
from tanren.common.config import Checkpointing
from tanren.common.fused._frozen import Scratch, UnknownFormError, form_of
from tanren.common.fused._layer import (
    AttentionParts,
    Kept,
    MlpParts,
    Norm,
    Stream,
    after_attention,
    before_attention,
    mlp,
    normed,
    summed,
)
from tanren.common.fused._operations import Heads
from tanren.common.fused._projections import Projections, stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Library classes whose layers are: norm, attention with rotary embedding, residual, norm, gated MLP with SiLU, residual."""
PLAIN_HEADS = (*FAMILIES, "Qwen3MoeForCausalLM", "MixtralForCausalLM", "GptOssForCausalLM")
"""Library classes whose logits are the product with the output head, and nothing more."""
LARGEST_RANK = 64
"""Of an adapter: a kernel holds three blocks of so many rows in registers."""


class NotFusableError(Exception):
    """Why a model keeps the library's own way."""


@dataclass(frozen=True)
class _Layer:
    module: Any
    """The library's attention module: its kernel is handed it."""
    attention: AttentionParts
    mlp: MlpParts


class FusedModel:
    """A causal language model with adapters, from token ids to the last hidden states."""

    def __init__(self, model: Any, checkpointing: Checkpointing) -> None:
        """Take a PEFT model apart. Raises NotFusableError where its layers are not what is fused here."""
        if not hasattr(model, "get_base_model"):
            raise NotFusableError("it has no adapters")
        base = model.get_base_model()
        if type(base).__name__ not in FAMILIES:
            raise NotFusableError(f"{type(base).__name__} is none of {', '.join(FAMILIES)}")
        if not is_packed(base):
            raise NotFusableError("its attention does not take packed samples")
        self._backbone = base.model
        self._config = base.config
        self._checkpointing = checkpointing
        _check(model, self._backbone)
        if plain_head(base) is None:
            raise NotFusableError("its output head is no plain product")
        self._norm = _norm(self._backbone.norm)
        scratch = Scratch()
        self._layers = [_layer(layer, self._config, scratch) for layer in self._backbone.layers]
        self._stacks = stacks(
            [
                group
                for layer in self._layers
                for group in (layer.attention.qkv, layer.attention.out, layer.mlp.gate_up, layer.mlp.down)
            ]
        )
        self.windows = sorted({layer.attention.window for layer in self._layers} - {0})
        """Sliding windows of its attention, in tokens."""
        self._refresh()

    def _refresh(self) -> None:
        with torch.no_grad():
            for stack in self._stacks:
                stack.refresh()

    def hidden(
        self, input_ids: torch.Tensor, positions: torch.Tensor, lengths: Sequence[int], follows: Sequence[bool] = ()
    ) -> torch.Tensor:
        """Return the hidden states before the output head, (tokens, width); ids and positions (1, tokens), packed."""
        self._refresh()
        embedded = self._backbone.embed_tokens(input_ids)
        cos, sin = (part[0] for part in self._backbone.rotary_emb(embedded, positions))
        packing = packing_arguments(lengths, input_ids.device, follows)
        stream = Stream(embedded[0])
        for layer in self._layers:
            stream = self._through(layer, stream, cos, sin, packing)
        return normed(stream, self._norm)

    def _through(
        self, layer: _Layer, stream: Stream, cos: torch.Tensor, sin: torch.Tensor, packing: dict[str, Any]
    ) -> Stream:
        if self._checkpointing != "full" or not torch.is_grad_enabled():
            kept: Kept = "gate_up" if self._checkpointing == "none" else "low"
            return mlp(self._attention(layer, stream, cos, sin, packing), layer.mlp, keep=kept, need=True)
        runs = 0

        def run(x: torch.Tensor) -> torch.Tensor:
            nonlocal runs
            runs += 1
            attended = self._attention(layer, Stream(x), cos, sin, packing)
            # One tensor between two layers is kept instead of two.
            return summed(mlp(attended, layer.mlp, keep="input", need=runs == 1), need=runs == 1)

        x: torch.Tensor = checkpoint(run, stream.x, use_reentrant=False, preserve_rng_state=False)
        return Stream(x)

    def _attention(
        self, layer: _Layer, stream: Stream, cos: torch.Tensor, sin: torch.Tensor, packing: dict[str, Any]
    ) -> Stream:
        parts = layer.attention
        query, key, value, x = before_attention(stream, parts, cos, sin)
        kernel = ALL_ATTENTION_FUNCTIONS[self._config._attn_implementation]
        rows = (part.transpose(0, 1).unsqueeze(0) for part in (query, key, value))  # (1, heads, tokens, size)
        attended, _ = kernel(layer.module, *rows, None, scaling=parts.scale, sliding_window=parts.window, **packing)
        return Stream(x, after_attention(attended.reshape(len(x), -1), parts))


def plain_head(model: Any) -> torch.nn.Linear | None:
    """Return the output head of a model, where its logits are the product with it and nothing more."""
    base = base_of(model)
    head = base.get_output_embeddings()
    plain = type(base).__name__ in PLAIN_HEADS and type(head) is torch.nn.Linear and head.bias is None
    return head if plain else None


def _check(model: Any, backbone: Any) -> None:
    """Raise NotFusableError for adapters and settings that the fused layers do not know."""
    config = backbone.config
    if config.hidden_act != "silu":
        raise NotFusableError(f"its MLP has {config.hidden_act}, not silu")
    if getattr(config, "attention_dropout", 0.0):
        raise NotFusableError("it has dropout on attention")
    inside: set[int] = set()
    forms: set[str] = set()
    for layer in backbone.layers:
        for module in _projections(layer):
            inside |= {id(parameter) for parameter in module.parameters()}
            try:
                forms.add(form_of(getattr(module, "base_layer", module)))
            except UnknownFormError as error:
                raise NotFusableError(str(error)) from None
            if hasattr(module, "base_layer"):
                _check_adapter(module)
        if layer.self_attn.o_proj.bias is not None or layer.mlp.gate_proj.bias is not None:
            raise NotFusableError("its output projection or its MLP has biases")
    if len(forms) > 1:
        raise NotFusableError(f"its projections are kept in several forms ({', '.join(sorted(forms))})")
    outside = [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in inside]
    if outside:
        raise NotFusableError(f"more than adapters of its layers is trained ({outside[0]})")


def _check_adapter(module: Any) -> None:
    """Raise NotFusableError for an adapter of a projection that is not plain LoRA."""
    from peft.tuners.lora import LoraLayer

    if not isinstance(module, LoraLayer) or type(module).__name__ not in ("Linear", "Linear4bit"):
        raise NotFusableError(f"a projection is of the kind {type(module).__name__}")
    if list(module.lora_A) != ["default"] or module.lora_variant or module.merged:
        raise NotFusableError("its adapters are not plain LoRA")
    if not isinstance(module.lora_dropout["default"], torch.nn.Identity):
        raise NotFusableError("its adapters have dropout (lora.dropout)")
    if len(module.lora_A["default"].weight) > LARGEST_RANK:  # type: ignore[arg-type]
        raise NotFusableError(f"its adapters have a rank over {LARGEST_RANK}")


def _projections(layer: Any) -> list[Any]:
    attention, gated = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(gated.gate_proj, gated.up_proj, gated.down_proj),
    ]


def _layer(layer: Any, config: Any, scratch: Scratch) -> _Layer:
    attention = layer.self_attn
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if norm is None else norm.weight.detach() for norm in norms)
    heads = Heads(
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        query_norm,
        key_norm,
        eps=0.0 if norms[0] is None else norms[0].variance_epsilon,
    )
    window = (
        attention.sliding_window if hasattr(attention, "sliding_window") else getattr(config, "sliding_window", None)
    )
    q, k, v, o, gate, up, down = _projections(layer)
    return _Layer(
        attention,
        AttentionParts(
            _norm(layer.input_layernorm),
            Projections([q, k, v], scratch),
            heads,
            Projections([o], scratch),
            attention.scaling,
            window or 0,
        ),
        MlpParts(_norm(layer.post_attention_layernorm), Projections([gate, up], scratch), Projections([down], scratch)),
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)
