"""Generation by a vLLM server that has the same base model: it is given the adapter's file in each step.

The server runs with `vllm serve MODEL --enable-lora --max-lora-rank R` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and sees the folder
that adapters are written to. Only vLLM answers as it is asked here: log-probabilities of the tokens that were drawn, at
temperature 1, and the tokens themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tanren.common.completions import Completion, Sampling, Tokens
from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError
from tanren.common.server_client import RefusedError, ServerClient
from tanren.grpo.config import ServerConfig
from tanren.grpo.following import KnownPrompt

if TYPE_CHECKING:
    import httpx


class ServerEngine:
    """A vLLM server with the newest adapter."""

    name = "vllm-server"

    def __init__(
        self, model: Any, config: ServerConfig, folder: Path, known: Tokens, seed: int, console: Console
    ) -> None:
        """Give the server at `config.address` the adapter of `model`; adapters are written to `folder`.

        `known` is a prompt that both score. Raises UserError for a server that cannot do this, MachineError where it does not
        follow the trainer.
        """
        assert config.address is not None
        self._config, self._folder, self._seed, self._console = config, folder, seed, console
        self._client = ServerClient(config.address, config, section="server", setting="server.address")
        # An adapter's name is never used twice on a server: it caches prompts by it.
        self._prefix = f"tanren-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
        self._version = self._rounds = 0
        self._model: Any = None
        self._check_base()
        self.proof = KnownPrompt(known, self._score).prove(model, self._give)
        self._known = KnownPrompt(known, self._score)

    def wake(self) -> None:
        """Do nothing: its memory is its own."""

    def sleep(self) -> None:
        """Do nothing."""

    def sync(self, model: Any) -> None:
        """Give the server the adapter's newest values, and see that it answers with them."""
        self._give(model)
        self._known.check(model)

    def generate(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[list[Completion]]:
        """Return `n` completions of each prompt, drawn independently; each prompt is one request."""
        self._rounds += 1
        asked = [
            {
                "prompt": list(prompt),
                "n": n,
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "stop_token_ids": list(sampling.stop_token_ids),
                "ignore_eos": True,
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": False,
                "seed": _seed(self._seed, self._rounds, number),
            }
            for number, prompt in enumerate(prompts)
        ]
        return [[_completion(choice) for choice in self._choices(answer, n)] for answer in self._all(asked)]

    def close(self) -> None:
        """Have the server forget the adapter, if it is still there, and remove its file."""
        if self._version:
            try:
                self._forget(self._version)
            except (RefusedError, MachineError, UserError) as error:
                self._console.warn(f"the server keeps the adapter {self._name(self._version)}: {error}")
        shutil.rmtree(self._folder, ignore_errors=True)

    def state(self) -> Mapping[str, Any]:
        """Return how many rounds have been drawn: seeds follow from it."""
        return {"rounds": self._rounds}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self._rounds = int(state["rounds"])

    def _check_base(self) -> None:
        """See that there is a server, and which model it serves."""
        served = asyncio.run(self._client.models())
        if not served:
            raise UserError(
                f"the server at {self._client.address} lists no model; expected is a vLLM server (vllm serve)"
            )
        named = self._config.model
        if named is not None and named not in served:
            raise UserError(
                f"server.model = {named!r} is not served at {self._client.address}; it serves {', '.join(served)}"
            )
        bases = [name for name, entry in served.items() if entry.get("parent") is None]
        self._base = named or (bases or list(served))[0]

    def _name(self, version: int) -> str:
        return f"{self._prefix}-{version}"

    def _give(self, model: Any) -> None:
        """Write the adapter, have it loaded under a new name, and the one before forgotten."""
        self._model = model
        last, self._version = self._version, self._version + 1
        self._load()
        if last:
            self._forget(last)

    def _load(self) -> None:
        folder = self._folder / self._name(self._version)
        if not folder.is_dir():
            # Read by another program while it is there: written aside and renamed by the name that it is asked for with.
            aside = folder.with_name(f".{folder.name}")
            self._model.save_pretrained(aside, save_embedding_layers=False)
            aside.rename(folder)
        body = {"lora_name": self._name(self._version), "lora_path": str(folder.resolve())}
        try:
            self._one("/load_lora_adapter", body, plain=True)
        except RefusedError as refused:
            if refused.status == 400 and "already been loaded" in refused.message:
                return
            hint = (
                "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
                if refused.status in (404, 405)
                else "look at --max-lora-rank, and whether it sees that folder (server.adapters)"
            )
            raise UserError(
                f"the server at {self._client.address} does not load the adapter {folder} ({refused.status}): {refused.message}; {hint}"
            ) from None

    def _forget(self, version: int) -> None:
        self._one("/unload_lora_adapter", {"lora_name": self._name(version)}, plain=True)
        shutil.rmtree(self._folder / self._name(version), ignore_errors=True)

    def _score(self, tokens: Tokens) -> list[float]:
        asked = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "ignore_eos": True}
        (answer,) = self._all([asked])
        found = self._choices(answer, 1)[0].get("prompt_logprobs")
        if not isinstance(found, list) or len(found) != len(tokens):
            raise self._no_vllm("prompt_logprobs")
        return [float(entry[str(token)]["logprob"]) for entry, token in zip(found[1:], tokens[1:], strict=True)]

    def _all(self, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers of /completions; a server that has come up anew is given the adapter again, once."""
        try:
            return asyncio.run(self._together(asked))
        except RefusedError as refused:
            if refused.status != 404:
                raise self._refusal(refused) from None
            self._console.warn(f"the server at {self._client.address} has forgotten the adapter; it is loaded again")
        self._load()
        try:
            return asyncio.run(self._together(asked))
        except RefusedError as refused:
            raise self._refusal(refused) from None

    async def _together(self, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        turns = asyncio.Semaphore(self._config.parallel)
        model = self._name(self._version)

        async def one(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
            async with turns:
                return await self._client.ask(client, "POST", "/completions", {"model": model, **body})

        async with self._client.connect() as client:
            return list(await asyncio.gather(*(one(client, body) for body in asked)))

    def _one(self, path: str, body: Mapping[str, Any], *, plain: bool) -> None:
        async def ask() -> None:
            async with self._client.connect() as client:
                await self._client.ask(client, "POST", path, body, plain=plain)

        asyncio.run(ask())

    def _choices(self, answer: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != n:
            raise self._no_vllm(f"{n} choices")
        return sorted(choices, key=lambda choice: int(choice["index"]))

    def _refusal(self, refused: RefusedError) -> UserError:
        if refused.status in (401, 403):
            return self._client.no_key(refused)
        return UserError(
            f"the server at {self._client.address} refuses the request ({refused.status}): {refused.message}; prompt and completion "
            "must fit its --max-model-len"
        )

    def _no_vllm(self, what: str) -> UserError:
        return UserError(
            f"the answer of {self._client.address} lacks {what}: expected is a vLLM server of 0.25 or later"
        )


def _completion(choice: Mapping[str, Any]) -> Completion:
    """Read a choice. Raises UserError where it lacks tokens or their log-probabilities."""
    try:
        tokens = tuple(int(token) for token in choice["token_ids"])
        log_probs = tuple(float(value) for value in choice["logprobs"]["token_logprobs"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"a completion of the server lacks its tokens or their log-probabilities ({type(error).__name__}: {error}): expected is a "
            "vLLM server of 0.25 or later"
        ) from None
    if len(tokens) != len(log_probs):
        raise UserError(f"a completion of the server has {len(tokens)} tokens and {len(log_probs)} log-probabilities")
    finish: Literal["stop", "length"] = "stop" if choice.get("finish_reason") == "stop" else "length"
    return Completion(tokens, log_probs, finish)


def _seed(seed: int, round_: int, number: int) -> int:
    """Return the seed of one request (31 bits)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{round_}/{number}".encode()).digest()[:4], "big") >> 1
