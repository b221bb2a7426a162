"""Completions of a given form by vLLM: its own batch and sampler, on the CPU, with logits in place of a model."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch

from tanren.common.completions import Structured
from tanren.common.models.tiny import tiny_tokenizer

pytest.importorskip("vllm")
pytest.importorskip("llguidance")
WORDS, END, TOGETHER = 259, 2, 5


class _Batch:
    """What vLLM's model runner does with requests around a forward pass, which is random here."""

    def __init__(self, processor: type) -> None:
        from vllm.v1.sample.logits_processor import LogitsProcessors
        from vllm.v1.sample.sampler import Sampler
        from vllm.v1.worker.gpu_input_batch import InputBatch

        device = torch.device("cpu")
        processors = LogitsProcessors([processor(None, device, False)])
        settings = {"logitsprocs": processors, "logitsprocs_need_output_token_ids": True}
        self._batch = InputBatch(TOGETHER, 64, 64, device, WORDS, [16], [16], **settings)
        self._sampler, self._requests = Sampler(), {}  # type: ignore[var-annotated]
        self._random = torch.Generator().manual_seed(5)

    def add(self, name: str, written: list[int]) -> None:
        from vllm import SamplingParams
        from vllm.v1.worker.gpu_input_batch import CachedRequestState

        asked = SamplingParams(max_tokens=40, stop_token_ids=[END], ignore_eos=True, logprobs=0, detokenize=False)
        request = CachedRequestState(name, [65, 66], [], asked, None, ([0],), 2, written)
        self._requests[name] = request
        self._batch.add_request(request)

    def remove(self, name: str) -> Any:
        self._batch.remove_request(name)
        return self._requests.pop(name)

    def step(self) -> dict[str, tuple[int, float, torch.Tensor]]:
        """Return a word for each request, its log-probability as vLLM tells it, and the logits."""
        batch = self._batch
        batch.condense()
        batch.refresh_metadata()
        logits = torch.randn((batch.num_reqs, WORDS), generator=self._random) * 3
        output = self._sampler(logits=logits.clone(), sampling_metadata=batch.sampling_metadata)
        words, log_probs = output.sampled_token_ids[:, 0].tolist(), output.logprobs_tensors.logprobs[:, 0].tolist()
        for name, word in zip(batch.req_ids, words, strict=True):
            self._requests[name].output_token_ids.append(word)
        return {
            name: (word, log_prob, row)
            for name, word, log_prob, row in zip(batch.req_ids, words, log_probs, logits, strict=True)
        }


@pytest.fixture
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have vLLM's CUDA build take plain memory where it would take pages for a GPU, and compile nothing for the CPU."""
    import torch._dynamo
    import vllm.v1.sample.sampler
    import vllm.v1.worker.gpu_input_batch  # noqa: F401

    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and hasattr(module, "PIN_MEMORY"):
            monkeypatch.setattr(module, "PIN_MEMORY", False)


@pytest.mark.filterwarnings("ignore")
def test_vllm_keeps_every_completion_to_its_form_and_its_log_probs_are_those_of_all_words(
    without_a_gpu: None,
) -> None:
    from tanren.common.grammar import Grammars
    from tanren.common.vllm._structured import Form, processor_of

    expression = "(up|down){1,4}!"
    grammar = Grammars(tiny_tokenizer(), WORDS).of(Structured("regex", expression), (END,))
    form = Form(grammar)
    batch = _Batch(processor_of(form))
    waiting, done = {f"new-{number}": list[int]() for number in range(12)}, []
    waiting["back"] = tiny_tokenizer()("updo")["input_ids"]  # as one that vLLM had to set aside
    running: set[str] = set()
    while waiting or running:
        while waiting and len(running) < TOGETHER:
            name, written = waiting.popitem()
            batch.add(name, written)
            running.add(name)
        for name, (word, log_prob, logits) in batch.step().items():
            assert log_prob == pytest.approx(float(logits.log_softmax(-1)[word]), abs=1e-4)
            if word == END:
                running.remove(name)
                done.append((name, str(tiny_tokenizer().decode(batch.remove(name).output_token_ids[:-1]))))
    assert len(done) == 13
    assert all(re.fullmatch(expression, text) for _, text in done)
    assert dict(done)["back"].startswith("updown")
    assert len({text for _, text in done}) > 3
    # What is asked for without a form is left alone: the scoring of a known prompt.
    form.grammar = None
    batch.add("free", [])
    assert len({batch.step()["free"][0] for _ in range(20)}) > 10


@pytest.mark.filterwarnings("ignore")
def test_vllm_takes_the_processor_with_the_rest_of_its_settings(tmp_path: Any) -> None:
    from vllm.engine.arg_utils import EngineArgs

    from tanren.common.models.tiny import tiny_config
    from tanren.common.vllm._structured import Form, processor_of

    config = tiny_config("tiny-qwen3")
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(tmp_path)
    processor = processor_of(Form())
    arguments = {"model": str(tmp_path), "skip_tokenizer_init": True, "load_format": "dummy", "max_model_len": 64}
    made = EngineArgs(**arguments, logits_processors=[processor]).create_model_config()
    assert made.logits_processors == [processor]
    # The log-probabilities that are told are taken before processors.
    assert made.logprobs_mode == "raw_logprobs"
    # What was compiled without a form is found again with one.
    assert made.compute_hash() == EngineArgs(**arguments).create_model_config().compute_hash()
