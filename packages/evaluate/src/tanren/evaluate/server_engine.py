"""The engine of a server: our own rendered prompts through /completions, one request for each completion.

The prompt goes as the very tokens that training has seen. A server that rendered the turns itself (/chat/completions)
would use a template of its own, with other spaces, a date or a default system turn: what is measured then is another
prompt, and its hash says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tanren.common.completions import Sampling
from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError
from tanren.common.server_client import RefusedError, ServerClient
from tanren.common.task_contract import Row
from tanren.evaluate.config import EvaluationRequestsConfig
from tanren.evaluate.engine import CompletionText, Done, Draws, Prompt, Slot

if TYPE_CHECKING:
    import httpx


class ServerEngine:
    """Asks a server for completions of one model."""

    def __init__(
        self,
        client: ServerClient,
        served: str,
        settings: EvaluationRequestsConfig,
        context: int | None,
        listed: Sequence[str] | None,
        console: Console,
    ) -> None:
        """Ask for the model `served`; `context`: its longest sequence in tokens, `listed`: all that is served, where that is known."""
        self._client, self._served, self._settings = client, served, settings
        self._context, self._listed, self._console = context, listed, console

    def generate(
        self,
        prompts: Sequence[Prompt],
        wanted: frozenset[Slot],
        draws: Draws,
        done: Done,
        say: Callable[[str], None],
    ) -> None:
        """Ask for every wanted completion, `requests.parallel` at a time; each has a seed of its own.

        Whether a seed gives the same completion again is up to the server. Raises UserError and MachineError with what the
        server says; what had come by then was handed over.
        """
        for prompt in prompts:
            needed = len(prompt.token_ids) + draws.sampling.max_new_tokens
            if self._context is not None and needed > self._context:
                raise self._too_long(prompt, draws.sampling, f"its context has {self._context} tokens")
        counted: list[int] = []
        asyncio.run(self._all(prompts, sorted(wanted), draws, done, say, counted))
        if counted:
            self._console.warn(
                f"{self._served}: the server counted other prompt tokens than our tokenizer for {len(counted)} completions (by up to "
                f"{max(counted, key=abs):+d}): it adds tokens of its own (a second beginning-of-text, as a rule) or has another tokenizer; "
                "requests.api = 'completions' sends the tokens themselves"
            )

    async def _all(
        self,
        prompts: Sequence[Prompt],
        wanted: Sequence[Slot],
        draws: Draws,
        done: Done,
        say: Callable[[str], None],
        counted: list[int],
    ) -> None:
        left = iter(wanted)
        under_way = 0

        async def work(client: httpx.AsyncClient) -> None:
            nonlocal under_way
            for slot in left:
                under_way += 1
                say(f"{under_way} requests under way")
                completion = await self._one(client, prompts[slot.prompt], slot, draws)
                under_way -= 1
                difference = completion.prompt_tokens - len(prompts[slot.prompt].token_ids)
                if self._settings.api == "text" and difference:
                    counted.append(difference)
                done([(slot, completion)])

        async with self._client.connect() as client:
            workers = [asyncio.create_task(work(client)) for _ in range(min(self._settings.parallel, len(wanted)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _one(self, client: httpx.AsyncClient, prompt: Prompt, slot: Slot, draws: Draws) -> CompletionText:
        chat, sampling = self._settings.api == "chat", draws.sampling
        body: dict[str, Any] = {
            "model": self._served,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if not sampling.greedy:
            body["seed"] = _seed(draws.seed, prompt.row, slot.sample)
        if chat:
            body["messages"] = _turns(prompt.row)
        else:
            body["prompt"] = list(prompt.token_ids) if self._settings.api == "completions" else prompt.text
        try:
            answer = await self._client.ask(client, "POST", "/chat/completions" if chat else "/completions", body)
        except RefusedError as refused:
            raise self._refusal(refused, prompt, sampling) from None
        return self._completion(answer, prompt)

    def _completion(self, answer: dict[str, Any], prompt: Prompt) -> CompletionText:
        """Read an answer. Raises MachineError where it lacks what is needed."""
        try:
            choice, usage = answer["choices"][0], answer["usage"]
            text = choice["message"]["content"] if self._settings.api == "chat" else choice["text"]
            found = CompletionText(
                text=text or "",  # null where a model wrote nothing, or only thoughts
                finish_reason=str(choice["finish_reason"]),
                prompt_tokens=int(usage["prompt_tokens"]),
                completion_tokens=int(usage["completion_tokens"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise MachineError(
                f"row {prompt.row.id}: the answer of {self._client.address} lacks {error}: expected choices[0] with text and finish_reason, "
                "and usage with prompt_tokens and completion_tokens"
            ) from None
        sent = len(prompt.token_ids)
        other = {"completions": found.prompt_tokens != sent, "text": found.prompt_tokens < sent, "chat": False}
        if other[self._settings.api]:
            raise UserError(
                f"row {prompt.row.id}: {sent} prompt tokens were sent, and the server at {self._client.address} read "
                f"{found.prompt_tokens}: it cuts prompts, has another tokenizer, or does not take tokens (then: requests.api = 'text')"
            )
        return found

    def _refusal(self, refused: RefusedError, prompt: Prompt, sampling: Sampling) -> UserError:
        where = f"the server at {self._client.address}"
        if refused.status in (401, 403):
            return self._client.no_key(refused)
        if refused.too_long:
            return self._too_long(prompt, sampling, refused.message)
        if refused.status == 404:
            serves = f"it serves {', '.join(self._listed)}" if self._listed else "it does not list what it serves"
            return UserError(
                f"{where} has no model {self._served!r}, or no such path (404): {refused.message}; {serves}"
            )
        return UserError(f"row {prompt.row.id}: {where} refuses the request ({refused.status}): {refused.message}")

    def _too_long(self, prompt: Prompt, sampling: Sampling, why: str) -> UserError:
        tokens = f"of {len(prompt.token_ids)} tokens " if prompt.token_ids else ""
        return UserError(
            f"row {prompt.row.id}: the prompt {tokens}and {sampling.max_new_tokens} new ones do not fit {self._served} at "
            f"{self._client.address}: {why}; lower generation.max_new_tokens, shorten the row, or serve it with a longer context"
        )


def chat_prompts(rows: Sequence[Row]) -> Iterator[Prompt]:
    """Yield the prompts of rows that a server renders itself: the hash is of the turns, and tells so."""
    for row in rows:
        turns = json.dumps(_turns(row), ensure_ascii=False, sort_keys=True)
        yield Prompt(row, "", (), f"chat-{hashlib.sha256(turns.encode()).hexdigest()[:16]}")


def _turns(row: Row) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in row.prompt]


def _seed(seed: int, row: Row, sample: int) -> int:
    """Return the seed of one completion (31 bits): the same whatever else is asked, and in whatever order."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{row.id}/{sample}".encode()).digest()[:4], "big") >> 1
