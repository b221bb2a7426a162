"""Requests to a server with OpenAI's interface: in parallel, tried again, within limits of time; errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tanren.common.config import RequestsConfig
from tanren.common.errors import MachineError, UserError

if TYPE_CHECKING:
    import httpx

# What passes: too many requests, a server that starts, is overloaded, or lost a worker.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_TOO_LONG = re.compile(r"context|too long|maximum.{0,20}(length|tokens)|exceed", re.IGNORECASE)
_LONGEST_WAIT = 30.0
_SHOWN = 300
_LOOPBACK = re.compile(r"https?://(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:|/|$)")


class RefusedError(Exception):
    """A server's answer that trying again does not change."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status, and what the server said in one line."""
        super().__init__(message)
        self.status, self.message = status, message

    @property
    def too_long(self) -> bool:
        """Whether prompt and completion do not fit the model's context."""
        return self.status in (400, 413, 422) and _TOO_LONG.search(self.message) is not None


def read_key(variable: str | None, section: str) -> str | None:
    """Return the key in an environment variable, None where none is named. Raises UserError where it is not set.

    `section` is that of the recipe with the setting.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UserError(
            f"{section}.key_variable = {variable!r}: that environment variable is not set; set it to the server's key"
        )
    return key


class ServerClient:
    """Asks one server."""

    def __init__(self, address: str, settings: RequestsConfig, *, section: str, setting: str) -> None:
        """Ask the server at `address`. Raises UserError where its key is not there.

        For messages: `section` of the recipe has the settings, `setting` the address.
        """
        self.address, self._settings, self._section, self._setting = address.rstrip("/"), settings, section, setting
        self._key = read_key(settings.key_variable, section)

    def connect(self) -> httpx.AsyncClient:
        """Return a connection pool, to be used as a context."""
        import httpx

        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_connections=self._settings.parallel),
            timeout=self._settings.timeout_s,
            # a proxy knows nothing of this machine's own servers
            trust_env=_LOOPBACK.match(self.address) is None,
        )

    async def models(self) -> dict[str, dict[str, Any]] | None:
        """Return the models that are served by name, None where the server does not tell. Raises MachineError where there is none."""
        async with self.connect() as client:
            try:
                answer = await self.ask(client, "GET", "/models", None)
            except RefusedError as refused:
                if refused.status in (401, 403):
                    raise self.no_key(refused) from None
                if refused.status in (404, 405, 501):
                    return None
                raise UserError(
                    f"the server at {self.address} refuses /models ({refused.status}): {refused.message}"
                ) from None
        entries = answer.get("data")
        if not isinstance(entries, list) or not all(isinstance(one, dict) and "id" in one for one in entries):
            raise UserError(
                f"{self.address}/models: no list of models; is that the path before /completions (often /v1)?"
            )
        return {str(one["id"]): one for one in entries}

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None, *, plain: bool = False
    ) -> dict[str, Any]:
        """Return a request's answer. What passes is tried again, with growing pauses or those that the server asks for.

        `plain`: the answer is text that says that it is done, and is not read.

        Raises RefusedError for what does not pass, and MachineError where all attempts together take longer than they may, or
        where nothing listens there at the first one.
        """
        import httpx

        begun, attempt, reason = time.monotonic(), 0, ""
        while True:
            left = self._settings.total_s - (time.monotonic() - begun)
            if left <= 0:
                raise MachineError(
                    f"the server at {self.address} has not answered within {self._section}.total_s = {self._settings.total_s:g} s, in {attempt} "
                    f"attempts; the last: {reason}; look at the server's log, then go on"
                )
            attempt += 1
            pause = min(_LONGEST_WAIT, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1)  # noqa: S311 (no secret)
            try:
                async with asyncio.timeout(min(left, self._settings.timeout_s)):
                    answer = await client.request(method, self.address + path, json=body)
                if answer.status_code == httpx.codes.OK and plain:
                    return {}
                if answer.status_code == httpx.codes.OK:
                    found = answer.json()
                    if isinstance(found, dict):
                        return found
                    reason = f"its answer is no object: {self._shown(answer.text)}"
                elif answer.status_code in _PASSING:
                    reason = f"{answer.status_code} {self._message(answer)}"
                    pause = max(pause, _retry_after(answer))
                else:
                    raise RefusedError(answer.status_code, self._message(answer))
            except httpx.ConnectError as error:
                reason = f"no connection: {self._shown(str(error))}"
                if method == "GET":  # the first question: a wrong address is told at once
                    raise MachineError(
                        f"no server at {self.address} ({self._shown(str(error))}); start it, or correct {self._setting}"
                    ) from None
            except TimeoutError:
                reason = f"no answer within {min(left, self._settings.timeout_s):.0f} s ({self._section}.timeout_s)"
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {self._shown(str(error))}"
            except ValueError as error:
                reason = f"its answer is no JSON: {self._shown(str(error))}"
            await asyncio.sleep(min(pause, max(0.0, self._settings.total_s - (time.monotonic() - begun))))

    def no_key(self, refused: RefusedError) -> UserError:
        """Return what is to be said where the server does not let us in."""
        do = (
            f"the key in {self._settings.key_variable} is not the right one"
            if self._key
            else f"name the environment variable that holds the key with {self._section}.key_variable"
        )
        return UserError(f"the server at {self.address} does not let us in ({refused.status}): {refused.message}; {do}")

    def _message(self, answer: httpx.Response) -> str:
        """Return what the server says of an error, in one line."""
        try:
            found = answer.json()
            error = found.get("error", found)
            said = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, AttributeError):
            said = answer.text
        return self._shown(str(said))

    def _shown(self, text: str) -> str:
        """Make a server's text fit for a line: without the key, which some repeat, and without control characters."""
        if self._key:
            text = text.replace(self._key, "***")
        line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
        return line[:_SHOWN] + ("..." if len(line) > _SHOWN else "")


def _retry_after(answer: httpx.Response) -> float:
    """Return the seconds that the server asks to wait, 0 where it does not say (or says a date)."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
