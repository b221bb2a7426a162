"""The backend of a server: the candidates are models that it serves; no weights are loaded here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tanren.common.config import Loaded
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource
from tanren.common.server_client import ServerClient
from tanren.common.task_contract import Row
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.engine import Engine, Prompt, prompts_of
from tanren.evaluate.roster import Candidate
from tanren.evaluate.server_engine import ServerEngine, chat_prompts
from tanren.evaluate.templates import check_templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN_TEMPLATE = "the server's own"


class ServedModels:
    """Knows which candidate is served under which name."""

    def __init__(self, loaded: Loaded[EvaluateConfig], candidates: Sequence[Candidate], console: Console) -> None:
        """Evaluate `candidates`; nothing is asked yet. Raises UserError where the key is not there."""
        self._config, self._candidates, self._console = loaded.config, candidates, console
        assert loaded.config.generation.server is not None
        self._client = ServerClient(
            loaded.config.generation.server, loaded.config.requests, section="requests", setting="generation.server"
        )
        self._served: dict[str, dict[str, Any]] | None = None
        self._tokenizers: dict[ModelSource, PreTrainedTokenizerBase] = {}
        self._hashes: dict[str, str] = {}

    def prepare(self) -> None:
        """Ask the server what it serves, and load the tokenizers of our own prompts."""
        config, console = self._config, self._console
        with console.phase("ask the server", self._client.address):
            self._served = asyncio.run(self._client.models())
        if self._served is None:
            console.line(f"{self._client.address} does not list what it serves")
        else:
            self._check_names(self._served)
        if config.requests.api == "chat":
            console.warn(
                "requests.api = 'chat': the server renders the prompts with a template of its own; they are not those of the training, "
                "and their hashes say so"
            )
            self._hashes = {one.name: OWN_TEMPLATE for one in self._candidates}
            return
        with console.phase("import", "transformers"):
            from tanren.common.chat import template_hash
            from tanren.common.models.load import load_tokenizer
        for one in self._candidates:
            if one.source not in self._tokenizers:
                self._tokenizers[one.source] = load_tokenizer(one.source, config.model.chat_template)
        self._hashes = {one.name: template_hash(self._tokenizers[one.source]) for one in self._candidates}
        check_templates(self._candidates, self._hashes, allowed=config.allow_other_template)
        for one in self._candidates:
            console.line(f"{one.name}: served as {one.served!r}; which weights these are cannot be checked from here")

    def order(self) -> Sequence[Candidate]:
        """Return the candidates as they are listed."""
        return self._candidates

    def prompts(self, candidate: Candidate, rows: Sequence[Row]) -> list[Prompt]:
        """Render the rows with the candidate's tokenizer, unless the server does it."""
        if self._config.requests.api == "chat":
            return list(chat_prompts(rows))
        return prompts_of(self._tokenizers[candidate.source], rows)

    @contextmanager
    def serving(self, candidate: Candidate) -> Iterator[Engine]:
        """Give the engine that asks for a candidate."""
        served = self._served or {}
        entry = served.get(candidate.served, {})
        if entry.get("max_model_len") is None:  # vLLM says it, of an adapter at the model below it
            entry = served.get(str(entry.get("parent")), {})
        context = entry.get("max_model_len")
        yield ServerEngine(
            self._client,
            candidate.served,
            self._config.requests,
            context if isinstance(context, int) else None,
            list(self._served) if self._served is not None else None,
            self._console,
        )

    def close(self) -> None:
        """Do nothing: the server is not ours."""

    def environment(self) -> Mapping[str, Any]:
        """Return where was asked, and for what."""
        first = self._candidates[0]
        return {
            "device": {"device": "server"},
            "model": {"name": first.served},
            "chat_template_hash": self._hashes[first.name],
            "server": {
                "address": self._client.address,
                "api": self._config.requests.api,
                "served": list(self._served) if self._served is not None else None,
            },
        }

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """Return its name at the server, and the template of its prompts."""
        return {
            "served": candidate.served,
            "api": self._config.requests.api,
            "chat_template_hash": self._hashes[candidate.name],
        }

    def _check_names(self, served: Mapping[str, Any]) -> None:
        """Refuse a name that is not served, with those that are."""
        for one in self._candidates:
            if one.served not in served:
                key = "requests.model" if one.kind == "base" else "its key served"
                raise UserError(
                    f"candidate {one.name}: the server at {self._client.address} does not serve {one.served!r}; it serves "
                    f"{', '.join(served) or 'nothing'}: set {key}"
                )
