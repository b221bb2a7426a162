"""vLLM in this process, on the GPU of the model whose weights it has.

It starts with empty weights and takes all of them from the model that stands beside it, by a copy on the GPU: so it generates
with what is trained, wherever that came from, and nothing is read twice. Asleep it gives memory back, by level:

    0   nothing: the fastest, where there is room for both
    1   the KV cache; its weights wait in the host's memory
    2   the KV cache and its weights: they are taken from the trained model anew, which is faster than from the host
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tanren.common.adapted import base_of
from tanren.common.completions import Completion, Sampling, Tokens
from tanren.common.errors import MachineError
from tanren.common.grammar import Grammars, grammar_of
from tanren.common.run import folder_written_aside
from tanren.common.vllm._structured import Form, processor_of
from tanren.common.vllm._weights import adapted_names, checkpoint_weights, head_stands_apart
from tanren.common.vllm_memory import BATCHED_TOKENS, GIB
from tanren.common.workspace import cache_folder

if TYPE_CHECKING:
    from vllm import LLM

PATIENCE_S = 10.0
"""How long `wake` waits for memory that something else may be giving back."""


@dataclass(frozen=True)
class Settings:
    """How one model stands in vLLM."""

    sequences: int
    """Completions that are decoded together."""
    longest: int
    """Tokens of the longest prompt with its completion."""
    cache_bytes: int
    """Of the KV cache."""
    sleep_level: Literal[0, 1, 2] = 0
    graphs: bool = True
    """Decode by CUDA graphs."""
    seed: int = 0


class Vllm:
    """One model in vLLM. There can be one in a process."""

    def __init__(self, model: Any, settings: Settings, grammars: Grammars | None = None) -> None:
        """Start vLLM for `model` (with or without an adapter); it has no weights before the first `sync`.

        With `grammars`, completions can be asked for in a given form.
        Raises MachineError where vLLM cannot start, with what it said.
        """
        self._settings = settings
        self._grammars, self._form = grammars, Form()
        self._asleep = self._empty = True
        self._changed: set[str] = set()
        base = base_of(model)
        self._experts = any(".experts." in name for name, _ in base.named_parameters())
        folder = _write_config(base, apart=head_stands_apart(model))
        _set_variables()
        gc.collect()
        torch.cuda.empty_cache()
        # vLLM seeds the random states of its process when it starts; those of this one are the run's.
        states = torch.get_rng_state(), torch.cuda.get_rng_state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own calls of torch
                self._llm = _start(
                    folder, base.dtype, settings, [processor_of(self._form)] if grammars is not None else None
                )
        except (RuntimeError, ValueError, torch.OutOfMemoryError) as error:
            raise MachineError(f"vLLM did not start: {_first_line(error)}") from error
        finally:
            torch.set_rng_state(states[0])
            torch.cuda.set_rng_state(states[1])
        self._asleep = False
        self._weights = sum(one.numel() * one.element_size() for one in self._model().parameters())

    def wake(self) -> None:
        """Take back the memory that `sleep` gave up. Raises MachineError where there is none."""
        if not self._asleep:
            return
        self._wait_for_memory()
        try:
            self._llm.wake_up()
        except RuntimeError as error:
            raise MachineError(f"vLLM cannot wake: {_first_line(error)}") from error
        self._asleep = False

    def sleep(self) -> None:
        """Give memory back, as much as the level says."""
        level = self._settings.sleep_level
        if level == 0 or self._asleep:
            return
        self._llm.sleep(level=level)
        self._asleep = True
        self._empty |= level == 2

    def sync(self, model: Any, *, everything: bool = False) -> None:
        """Take over a model's weights: all of them where vLLM has none, else those that its adapter changes, or the last one did.

        `everything`: all of them again, for a base that is no longer what it was.
        """
        changed = adapted_names(model)
        only = None if self._empty or everything else changed | self._changed
        with torch.no_grad():
            self._load(self._model(), checkpoint_weights(model, only=only))
        self._empty, self._changed = False, changed
        # What was read with other weights is no part of this model's cache.
        self._llm.reset_prefix_cache()

    def generate(
        self, prompts: Sequence[Tokens], n: int, sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """Return `n` completions of each prompt, drawn independently; a prompt is read once for all of them.

        `seeds`: of each prompt; its completion k is drawn by seed + k. Not given: by the random states of this process.
        """
        from vllm import SamplingParams

        asked = SamplingParams(
            n=n,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        each = [asked] * len(prompts)
        if seeds is not None:
            each = [asked.clone() for _ in prompts]
            for one, seed in zip(each, seeds, strict=True):
                one.seed = seed
        self._form.grammar = grammar_of(sampling, self._grammars)
        try:
            outputs = self._run(prompts, each)
        finally:
            self._form.grammar = None
        return [[_completion(one) for one in output.outputs] for output in outputs]

    def score(self, tokens: Tokens) -> list[float]:
        """Return the log-probability of each token but the first, in nats, given those before it."""
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False, ignore_eos=True)
        found = self._run([tokens], [asked])[0].prompt_logprobs
        return [entry[token].logprob for entry, token in zip(found[1:], tokens[1:], strict=True)]

    def _run(self, prompts: Sequence[Tokens], asked: Sequence[Any]) -> list[Any]:
        """Return vLLM's outputs. Raises MachineError where it fails: what was logged before is kept."""
        try:
            found: list[Any] = self._llm.generate(
                [{"prompt_token_ids": list(one)} for one in prompts], list(asked), use_tqdm=False
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever its threads and kernels raise
            raise MachineError(f"vLLM failed while generating: {type(error).__name__}: {_first_line(error)}") from error
        return found

    def close(self) -> None:
        """Give everything back."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        if self._asleep and self._settings.sleep_level:
            # Its allocator frees only what is mapped. Where there is no memory for that any more, it says so as the process ends.
            torch.cuda.empty_cache()
            with suppress(RuntimeError):
                self._llm.wake_up()
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    def _wait_for_memory(self) -> None:
        """Return when there is memory to wake. Raises MachineError where it is not there in time: nothing has been taken by then."""
        wanted = self._settings.cache_bytes + self._weights
        # What the trainer's allocator keeps for itself is not free for vLLM.
        torch.cuda.empty_cache()
        until = time.monotonic() + PATIENCE_S
        while (free := torch.cuda.mem_get_info()[0]) < wanted:
            if time.monotonic() > until:
                raise MachineError(
                    f"vLLM cannot wake: it needs {wanted / GIB:.1f} GiB ({self._weights / GIB:.1f} for its weights), and for {PATIENCE_S:.0f} s "
                    f"{free / GIB:.1f} GiB of the GPU were free; lower vllm.gpu_memory_utilization, or end what else is on this GPU"
                )
            gc.collect()
            torch.cuda.empty_cache()
            time.sleep(0.2)

    def _model(self) -> Any:
        """Return vLLM's own model."""
        return self._llm.llm_engine.model_executor.driver_worker.worker.get_model()

    def _load(self, own: Any, weights: Any) -> None:
        """Load weights in the form of a checkpoint."""
        if not self._experts:
            own.load_weights(weights)
            return
        # The kernels of experts may want their weights in another order than the checkpoint's.
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})


def _set_variables() -> None:
    """Set what vLLM reads from the environment when it is imported, where the user has not set it."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, so that weights are copied on the GPU
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it is compiled when it is first used, and wants nvcc for that
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # its one worker is this process
        "VLLM_CACHE_ROOT": str(cache_folder() / "vllm"),
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    for name in ("vllm", "flashinfer"):  # what they say of themselves while they start is no news of this run
        logging.getLogger(name).setLevel(logging.ERROR)


def _write_config(base: Any, *, apart: bool) -> Path:
    """Write what vLLM reads of a model, its configuration as it is now; `apart`: head and embeddings differ.

    The folder is named by what it holds: what vLLM has compiled belongs to a folder's name, and is found again.
    """
    config = type(base.config).from_dict(base.config.to_dict())
    config.architectures = [type(base).__name__]
    config.dtype = base.dtype
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if apart:
        config.tie_word_embeddings = False
    name = hashlib.sha256(config.to_json_string().encode()).hexdigest()[:16]
    folder = cache_folder() / "vllm" / "configs" / name
    if not folder.is_dir():
        with folder_written_aside(folder) as aside:
            config.save_pretrained(aside)
    return folder


def _start(folder: Path, dtype: torch.dtype, settings: Settings, processors: list[type] | None) -> LLM:
    from vllm import LLM

    return LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        load_format="dummy",
        use_tqdm_on_load=False,
        generation_config="vllm",
        dtype=str(dtype).removeprefix("torch."),
        seed=settings.seed,
        max_model_len=settings.longest,
        max_num_seqs=settings.sequences,
        max_num_batched_tokens=max(min(BATCHED_TOKENS, settings.sequences * settings.longest), settings.sequences),
        kv_cache_memory_bytes=settings.cache_bytes,
        gpu_memory_utilization=0.01,  # only checked against what is free: the cache is given in bytes
        enable_sleep_mode=settings.sleep_level > 0,
        enforce_eager=not settings.graphs,
        enable_prefix_caching=True,
        enable_flashinfer_autotune=False,  # none of its kernels is used here
        logits_processors=processors,
    )


def _completion(output: Any) -> Completion:
    finish: Literal["stop", "length"] = "stop" if output.finish_reason == "stop" else "length"
    return Completion(tuple(output.token_ids), tuple(output.logprobs.logprobs), finish)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
