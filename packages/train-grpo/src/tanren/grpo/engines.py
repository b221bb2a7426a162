"""Which engine generates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tanren.common.errors import UserError
from tanren.grpo.config import GrpoConfig
from tanren.grpo.engine import Engine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def require_engine(config: GrpoConfig) -> None:
    """Raise UserError for an engine that this version does not have: before anything is loaded."""
    named = config.rollout.engine
    if named in ("vllm", "vllm-server"):
        raise UserError(
            f"rollout.engine = {named} is not part of this version; write transformers, or leave it at auto"
        )


def open_engine(config: GrpoConfig, model: Any, tokenizer: PreTrainedTokenizerBase) -> Engine:
    """Return the engine of a recipe (see `require_engine`)."""
    from tanren.grpo.transformers_engine import TransformersEngine

    padding = tokenizer.pad_token_id
    assert padding is not None, "load_tokenizer gives every tokenizer one"
    return TransformersEngine(model, batch_size=config.rollout.batch_size, padding=int(padding), seed=config.seed)
