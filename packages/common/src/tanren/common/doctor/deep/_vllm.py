"""Proof of vLLM: for one model, saved in a folder, it gives the log-probabilities that transformers computes."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from tanren.common.doctor.deep._probe import Comparison, ProbeResult

TOP = 5
LIMIT = 0.03
"""Of the log-probabilities: bfloat16 costs 0.6 % here; a token of the prompt that is changed or left out, 8 % or more."""
# An ordinary shape, which every attention kernel of vLLM takes; with weights this large, each token of the prompt counts.
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 0,
}
PROMPT = tuple(range(7, 505, 13))


def first_token() -> ProbeResult:
    """Start an engine on the GPU for a random model, and generate one token greedily."""
    import torch
    import vllm

    from tanren.common.doctor.deep._measure import half_precision, name_of

    dtype = half_precision("cuda:0")
    with tempfile.TemporaryDirectory(prefix="tanren-doctor-model-") as name:
        reference = save_model(Path(name), dtype)
        begun = time.perf_counter()
        engine = vllm.LLM(
            model=name,
            skip_tokenizer_init=True,
            dtype=name_of(dtype),  # type: ignore[arg-type, unused-ignore]
            max_model_len=128,
            max_num_seqs=4,
            gpu_memory_utilization=0.05,  # of which it wants to see free
            kv_cache_memory_bytes=64 << 20,
            enforce_eager=True,
        )
        started = time.perf_counter() - begun
        settings = vllm.SamplingParams(temperature=0.0, max_tokens=1, logprobs=TOP, detokenize=False, ignore_eos=True)
        begun = time.perf_counter()
        [answer] = engine.generate([{"prompt_token_ids": list(PROMPT)}], settings, use_tqdm=False)
        seconds = time.perf_counter() - begun
    [completion] = answer.outputs
    assert completion.logprobs is not None
    found = {token: one.logprob for token, one in completion.logprobs[0].items()}
    chosen = completion.token_ids[0]
    best = int(reference.argmax())
    if chosen != best and reference[best] - reference[chosen] > LIMIT * abs(reference[best]):
        raise RuntimeError(f"vLLM's first token is {chosen}, transformers' is {best}")
    return ProbeResult(
        f"{vllm.__version__}, {name_of(dtype)}, one token of a random Qwen3, started in {started:.1f} s",
        comparisons=(
            Comparison(f"log-probabilities of {len(found)} tokens", distance(found, reference.tolist()), LIMIT),
        ),
        numbers={"start_seconds": started, "token_seconds": seconds, "torch": torch.__version__},
    )


def save_model(folder: Path, dtype: Any) -> Any:
    """Save the random model in a precision, and return what it says after PROMPT: log-probabilities (vocabulary,), float64.

    They are computed on the CPU in float32 from the weights as saved.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import AutoConfig

    from tanren.common.doctor.deep._measure import SEED

    settings = dict(CONFIG)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings), dtype=dtype)
    model.save_pretrained(folder)
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return exact(torch.tensor([PROMPT])).logits[0, -1].double().log_softmax(-1)


def distance(found: dict[int, float], reference: list[float]) -> float:
    """Return the relative distance of some tokens' log-probabilities from the reference's."""
    squares = sum((value - reference[token]) ** 2 for token, value in found.items())
    return math.sqrt(squares / sum(reference[token] ** 2 for token in found))
