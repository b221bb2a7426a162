"""A model that decides: it answers the pack's own prompt, and the pack's own parser reads its action."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tanren.common.chain import Link
from tanren.common.completions import Sampling
from tanren.common.console import Console
from tanren.common.control_contract import Episode, Parser, Week
from tanren.common.errors import UserError
from tanren.common.models.quantised import require_bitsandbytes
from tanren.common.task_contract import Parsed
from tanren.common.workspace import sha256_of
from tanren.evaluate.candidate import check_provenance, quantisation_of, with_adapter

from ._candidate import Candidate
from ._flags import ModelFlags
from ._loop import Decision
from ._vote import majority


class ModelController:
    """Asks a model for every decision, all weeks and samples in one batch."""

    def __init__(self, candidate: Candidate, flags: ModelFlags, seed: int, parse: Parser, console: Console) -> None:
        """Load the model. Raises UserError for an adapter of another base, or another chat template than in training."""
        self._flags, self._seed, self._parse, self._console = flags, seed, parse, console
        self._settings = candidate.loaded.config.generation
        self.environment: dict[str, Any] = {}
        self._load(candidate)

    def decide(
        self, number: int, weeks: Sequence[Week], episodes: Sequence[Episode], say: Callable[[str], None]
    ) -> list[Decision]:
        """Ask for a decision of each episode; one without an action is a failed decision, never another action."""
        import torch

        from tanren.evaluate.generation import generate

        del weeks
        rows = [episode.row() for episode in episodes]
        samples = self._flags.count
        longest = self._settings.max_new_tokens * math.ceil(len(rows) * samples / self._settings.batch_size)
        drawn = self._flags.drawn
        if drawn is not None:
            torch.manual_seed(self._seed * 1_000_003 + number)  # each hour its own draws, the same in every run
        tokens = itertools.count(1)
        answers = generate(
            self._model,
            self._tokenizer,
            [row for row in rows for _ in range(samples)],
            self._settings,
            on_token=lambda: say(f"token {next(tokens)} of at most {longest}"),
            on_batch=lambda *_: None,
            sampling=Sampling(self._settings.max_new_tokens, *drawn) if drawn is not None else None,
        )
        decisions = []
        for index, row in enumerate(rows):
            own = answers[index * samples : (index + 1) * samples]
            judged = [self._parse(answer.completion, row) for answer in own]
            vote = majority([one.value if one.valid else None for one in judged])
            details: dict[str, Any] = {
                "prompt": [asdict(message) for message in row.prompt],
                "prompt_hash": own[0].prompt_hash,
                "prompt_tokens": own[0].prompt_tokens,
                "votes": {str(action): count for action, count in vote.counts.items()},
                "samples": [
                    {
                        "completion": answer.completion,
                        "action": one.value if one.valid else None,
                        "error": "" if one.valid else one.error,
                        "finish_reason": answer.finish_reason,
                        "completion_tokens": answer.completion_tokens,
                    }
                    for answer, one in zip(own, judged, strict=True)
                ],
            }
            if vote.action is None:
                cut = sum(answer.finish_reason == "length" for answer in own)
                details["failed"] = _why(judged, cut)
            decisions.append(Decision(vote.action, details))
        return decisions

    def _load(self, candidate: Candidate) -> None:
        console, config, trained = self._console, candidate.loaded.config, candidate.trained
        parents: Sequence[Link] = trained.parents if trained is not None else ()
        with console.phase("import", "torch, transformers"):
            from tanren.common.chat import template_hash
            from tanren.common.models.device import plan_device
            from tanren.common.models.load import load_model, load_tokenizer
            from tanren.common.models.packaged import loading
        device = plan_device(config.model)
        quantisation, why = quantisation_of(candidate.loaded, trained)
        for note in (*candidate.notes, why):
            if note:
                console.line(note)
        require_bitsandbytes(quantisation)
        with console.phase("load model", loading(candidate.source)):
            tokenizer = load_tokenizer(candidate.source, config.model.chat_template)
            base = load_model(candidate.source, device, quantisation)
        for note in base.notes:
            console.line(note)
        template = template_hash(tokenizer)
        if trained is not None:
            check_provenance(trained, base.provenance, template, config)
        elif candidate.adapter is not None:
            console.warn(
                f"adapter {candidate.adapter} has no record: whether it belongs to {candidate.source.name} cannot be checked"
            )
        if candidate.template not in (None, template) and not config.allow_other_template:
            raise UserError(
                f"the model {candidate.source.name} was trained with the chat template {candidate.template}, its tokenizer has "
                f"{template}; name the one that it had with --chat-template, or go on all the same with --allow-other-template"
            )
        self.environment = {
            "device": asdict(device),
            "model": base.provenance,
            "adapter": None if candidate.adapter is None else _hashes(candidate.adapter),
            "parents": [link.record(number) for number, link in enumerate(parents, start=1)],
            "chat_template_hash": template,
        }
        self._tokenizer = tokenizer
        self._model = (
            base.model
            if candidate.adapter is None
            else with_adapter(base, candidate.adapter, parents, candidate.source, device, quantisation, console)
        )


def _hashes(adapter: Path) -> dict[str, str]:
    """Return the hashes of an adapter's files, whether it has a record of them or not."""
    return {path.name: sha256_of(path) for path in sorted(adapter.glob("adapter_*")) if path.is_file()}


def _why(judged: Sequence[Parsed], cut: int) -> str:
    """Return in a few words why no sample had an action: the commonest reason, and how many were cut off."""
    [(reason, count)] = Counter(one.error for one in judged).most_common(1)
    of = f" ({count} of {len(judged)} samples)" if len(judged) > 1 else ""
    return f"{reason}{of}{'; cut at the token limit' if cut else ''}"
