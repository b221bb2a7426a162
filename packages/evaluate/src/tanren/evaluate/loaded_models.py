"""The backend of transformers: all candidates one after the other, without loading the base model again.

An adapter is put on the base and taken off again. What parents change of the base is kept aside and put back, so the
base is bit for bit what it was. A whole model comes after all that stand on the base, which is let go first.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tanren.common.chain import PROVENANCE
from tanren.common.config import Loaded, Quantisation
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.models.quantised import require_bitsandbytes
from tanren.common.models.source import ModelSource
from tanren.common.task_contract import Row
from tanren.common.vllm_memory import vllm_refusal
from tanren.evaluate.candidate import check_provenance, quantisation_of
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.engine import Engine, Prompt, prompts_of
from tanren.evaluate.roster import Candidate
from tanren.evaluate.templates import check_templates
from tanren.evaluate.vllm_engine import OneVllm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel


class LoadedModels:
    """Loads what candidates need, when they need it."""

    def __init__(self, loaded: Loaded[EvaluateConfig], candidates: Sequence[Candidate], console: Console) -> None:
        """Evaluate `candidates`; nothing is loaded yet."""
        self._loaded, self._config, self._candidates, self._console = loaded, loaded.config, candidates, console
        self._tokenizers: dict[ModelSource, PreTrainedTokenizerBase] = {}
        self._model: LoadedModel | None = None
        self._holds: tuple[Any, ...] = ()
        self._originals: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._environment: dict[str, Any] = {}
        self._vllm = OneVllm(console)

    def prepare(self) -> None:
        """Load tokenizers, and the base model if anything stands on it; refuse what does not belong together."""
        console = self._console
        with console.phase("import", "torch, transformers"):
            from tanren.common.chat import template_hash
            from tanren.common.models.device import plan_device
            from tanren.common.models.load import load_tokenizer
        self._device: DevicePlan = plan_device(self._config.model)
        self._quantisation, notes = self._quantisations()
        if self._config.generation.engine == "vllm":
            refusal = vllm_refusal(self._device.device, self._device.dtype, self._quantisation)
            if refusal is not None:
                raise UserError(f"generation.engine = vllm: {refusal}; leave it out, and transformers generates")
        for note in notes:
            console.line(note)
        require_bitsandbytes(self._quantisation)
        for one in self._candidates:
            if one.source not in self._tokenizers:
                self._tokenizers[one.source] = load_tokenizer(one.source, self._config.model.chat_template)
        hashes = {one.name: template_hash(self._tokenizers[one.source]) for one in self._candidates}
        check_templates(self._candidates, hashes, allowed=self._config.allow_other_template)
        self._environment = {"device": asdict(self._device), "chat_template_hash": next(iter(hashes.values()))}
        for one in self.order():
            if one.kind != "model":
                base = self._base(())
                if one.trained is not None:
                    check_provenance(one.trained, base.provenance, hashes[one.name], self._config)
                elif one.adapter is not None:
                    console.warn(
                        f"adapter {one.adapter} has no {PROVENANCE}: whether it belongs to {one.source.name} cannot be checked"
                    )
        self._environment["model"] = (
            self._model.provenance if self._model is not None else self._candidates[0].source.provenance()
        )

    def order(self) -> Sequence[Candidate]:
        """Return the candidates on the base first, those with the same parents together, and whole models last."""
        merged = list(dict.fromkeys(one.merged for one in self._candidates))
        return sorted(
            self._candidates, key=lambda one: (one.kind == "model", bool(one.merged), merged.index(one.merged))
        )

    def prompts(self, candidate: Candidate, rows: Sequence[Row]) -> list[Prompt]:
        """Render the rows with the candidate's own tokenizer."""
        return prompts_of(self._tokenizers[candidate.source], rows)

    @contextmanager
    def serving(self, candidate: Candidate) -> Iterator[Engine]:
        """Give an engine with the candidate's weights."""
        from tanren.common.models.merging import load_adapter

        if candidate.kind == "model":
            yield self._engine(self._whole(candidate).model, candidate)
            return
        base = self._base(candidate.parents)
        if candidate.adapter is None:
            yield self._engine(base.model, candidate)
            return
        with self._console.phase("load adapter", str(candidate.adapter)):
            wrapped = load_adapter(base.model, candidate.adapter)
        yield self._engine(wrapped, candidate)
        wrapped.unload()

    def _engine(self, model: Any, candidate: Candidate) -> Engine:
        """Return what generates with a model's weights."""
        tokenizer = self._tokenizers[candidate.source]
        if self._config.generation.engine == "vllm":
            from tanren.evaluate.vllm_engine import VllmEngine

            return VllmEngine(self._vllm, model, tokenizer)
        from tanren.evaluate.generation import TransformersEngine

        return TransformersEngine(model, tokenizer, self._config.generation)

    def close(self) -> None:
        """End what generates."""
        self._vllm.close()

    def environment(self) -> Mapping[str, Any]:
        """Return device, base model and template."""
        return self._environment

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """Return the hash of its chat template, and the identity of its weights."""
        from tanren.common.chat import template_hash

        whole = candidate.kind == "model"
        weights = candidate.source.provenance() if whole else self._environment["model"]
        return {"chat_template_hash": template_hash(self._tokenizers[candidate.source]), "weights": dict(weights)}

    def _quantisations(self) -> tuple[Quantisation, list[str]]:
        """Return how the base's layers are kept, and what is to be said: one base serves all adapters."""
        adapters = [one for one in self._candidates if one.kind == "adapter"]
        found = {one.name: quantisation_of(self._loaded, one.trained) for one in adapters}
        kinds = {quantisation for quantisation, _ in found.values()}
        if len(kinds) > 1:
            told = ", ".join(f"{name}: {quantisation}" for name, (quantisation, _) in found.items())
            raise UserError(
                f"the adapters were trained on bases that are kept differently ({told}), and one base serves all candidates; evaluate "
                "them in runs of their own, or name one with --model.quantisation"
            )
        notes = list(dict.fromkeys(note for _, note in found.values() if note))
        return (kinds.pop() if kinds else self._config.model.quantisation), notes

    def _base(self, parents: Sequence[Any]) -> LoadedModel:
        """Return the base model with these parents merged, and nothing else."""
        from tanren.common.models.merging import merge_chain, with_parents

        source = next(one.source for one in self._candidates if one.kind != "model")
        holds = (source, tuple(link.adapter_sha256 for link in parents))
        if self._model is not None and self._holds == holds:
            return self._model
        if self._quantisation != "none" and (parents or self._model is not None):
            # what is quantised cannot be merged into, nor be got back
            self._release()
            whole = self._load(source, "none" if parents else self._quantisation)
            if parents:
                with self._console.phase("merge parents", ", ".join(link.line() for link in parents)):
                    whole = with_parents(whole, parents, self._device, self._quantisation)
            self._model = whole
        elif self._model is None:
            self._model = self._load(source, self._quantisation)
        for weight, original in self._originals:
            weight.data.copy_(original)
        self._originals = []
        if parents and self._quantisation == "none":
            with self._console.phase("merge parents", ", ".join(link.line() for link in parents)):
                self._originals = _touched(self._model.model, parents)
                merge_chain(self._model.model, parents)
        self._holds = holds
        return self._model

    def _whole(self, candidate: Candidate) -> LoadedModel:
        if self._holds != (candidate.source,):
            self._release()
            self._model = self._load(candidate.source, self._config.model.quantisation)
            self._holds = (candidate.source,)
        assert self._model is not None
        return self._model

    def _load(self, source: ModelSource, quantisation: Quantisation) -> LoadedModel:
        from tanren.common.models.load import load_model
        from tanren.common.models.packaged import loading

        with self._console.phase("load model", loading(source)):
            model = load_model(source, self._device, quantisation)
        for note in model.notes:
            self._console.line(note)
        return model

    def _release(self) -> None:
        """Let the model go before the next is loaded: two may not fit."""
        import torch

        self._vllm.close()
        self._model, self._originals, self._holds = None, [], ()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _touched(model: Any, chain: Sequence[Any]) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Return the weights that a chain of adapters changes, each with a copy in the host's memory."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    from tanren.common.models.merging import load_adapter

    found: dict[int, tuple[torch.nn.Parameter, torch.Tensor]] = {}
    for link in chain:
        wrapped = load_adapter(model, link.folder)
        for layer in [module for module in wrapped.modules() if isinstance(module, LoraLayer)]:
            weight = getattr(
                layer.get_base_layer(), layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
            )
            if id(weight) not in found:
                found[id(weight)] = (weight, weight.detach().to("cpu", copy=True))
        wrapped.unload()
    return list(found.values())
