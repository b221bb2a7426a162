"""Random models of a few hundred thousand parameters for tests: real architectures, built from a config and a seed."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import AutoConfig

SEED = 20240801
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny-qwen3": {"model_type": "qwen3", "intermediate_size": 128},
    "tiny-qwen3-moe": {
        "model_type": "qwen3_moe",
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "tiny-gpt-oss": {
        "model_type": "gpt_oss",
        "intermediate_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 32,
    },
}


def tiny_tokenizer(words: int = 0) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer (256 bytes and 3 special tokens) with the ChatML template.

    `words`: with so many words in all; the others are text that is never read, only written (w259, w260, ...).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    vocabulary |= {f"w{index}": index for index in range(len(vocabulary), words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        additional_special_tokens=list(SPECIAL),
    )
    fast.chat_template = CHATML
    return fast


def tiny_config(name: str) -> PreTrainedConfig:
    """Return the configuration of the random model `name`."""
    settings = dict(_ARCHITECTURES[name])
    vocabulary = len(SPECIAL) + 256
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=vocabulary, **_COMMON, **settings)
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 2, 0, None
    return config


def tiny_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return the random model `name`, the same at every call: the global random state is left as it was."""
    config = tiny_config(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.to(dtype)  # type: ignore[arg-type]
    return model
