"""The server: http.server of the standard library, a thread for each request.

A handful of routes for one reader on one machine: a framework would add dependencies and its own surface, and its speed and
its sessions are not needed. No debug mode, no listing of folders: only the files that are named here are served.
"""

from __future__ import annotations

import gzip
import json
import operator
import secrets
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tanren.common.errors import TanrenError
from tanren.evaluate.report import page_file, page_templates

from ._edits import ConflictError
from ._guard import HEADERS, cookie_name, knows_token, refusal, same_token
from ._workbench import Workbench

HOST = "127.0.0.1"
MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request: an answer before and after."""
SILENCE = 60.0
"""Seconds after which a connection that says nothing is closed."""
_HTML, _SCRIPT, _STYLE, _JSON, _TEXT = "text/html", "text/javascript", "text/css", "application/json", "text/plain"


class ViewServer(ThreadingHTTPServer):
    """Serves one workbench on the loopback interface to whoever has the token."""

    daemon_threads = True  # Ctrl-C ends the process though a browser keeps its connection open

    def __init__(self, workbench: Workbench, token: str, port: int) -> None:
        """Listen on `port`, 0: a free one. Raises OSError where it cannot be had."""
        self.workbench, self.token = workbench, token
        # Browsers send a cookie to every port of a host, but only below its path: another server here must not get it.
        self.home = f"/{secrets.token_urlsafe(12)}/"
        page = page_templates().get_template("view.html.j2").render(group=workbench.group, run=workbench.name)
        self.files = {
            "/": (page, _HTML),
            "/page.css": (page_file("page.css") + page_file("view.css"), _STYLE),
            "/items.js": (page_file("items.js"), _SCRIPT),
            "/view.js": (page_file("view.js"), _SCRIPT),
        }
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away, or of a connection that Ctrl-C closed; all else is a bug and shows its traceback."""
        closed = request.fileno() < 0  # below its thread, where Ctrl-C came just as that was started
        if not closed and not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tanren", ""
    timeout: ClassVar[float] = SILENCE

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = self._inner(url.path)
        values = {name: given[0] for name, given in parse_qs(url.query).items()}
        opens = url.path == "/" and same_token(values.get("token", ""), self.server.token)
        if self._refused(refusal(self.headers, opens=opens)):
            return
        if opens:
            # A page that goes on, not a redirect: behind a link of another site, a redirect would come without the cookie.
            # The address with the token is then neither in the address bar nor in the history.
            home = self.server.home
            kept = f"{cookie_name(self._port)}={self.server.token}; HttpOnly; SameSite=Strict; Path={home}"
            onward = f'<!doctype html><title>Tanren view</title><meta http-equiv="refresh" content="0;url={home}">\n'
            self._answer(HTTPStatus.OK, onward, _HTML, {"Set-Cookie": kept})
        elif not knows_token(self.headers, self.server.token, self._port):
            self._forbid("the token is missing or wrong; open the address that `tanren view` printed")
        elif path in self.server.files:
            self._answer(HTTPStatus.OK, *self.server.files[path])
        elif path == "/api/items":
            self._json(HTTPStatus.OK, self.server.workbench.data())
        elif path == "/api/shown":
            self._shown(values)
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"there is nothing at {url.path}"})

    def do_POST(self) -> None:
        if self._refused(refusal(self.headers, writes=True)):
            return
        if not knows_token(self.headers, self.server.token, self._port):
            self._forbid("the token is missing or wrong; open the address that `tanren view` printed")
        elif self._inner(self.path) != "/api/answer":
            self._json(HTTPStatus.NOT_FOUND, {"error": f"there is nothing at {self.path}"})
        elif self.headers.get_content_type() != _JSON:
            self._json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": f"expected {_JSON}"})
        else:
            self._save()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing: a line for each request would bury the address, and hold the token."""

    @property
    def _port(self) -> int:
        return int(self.server.server_address[1])

    def _inner(self, path: str) -> str:
        """Return a path without the folder that the page stands in; a program with the header needs none."""
        return path.replace(self.server.home, "/", 1) if path.startswith(self.server.home) else path

    def _refused(self, reason: str | None) -> bool:
        if reason is not None:
            self._forbid(reason)
        return reason is not None

    def _forbid(self, reason: str) -> None:
        self._answer(HTTPStatus.FORBIDDEN, f"{reason}\n", _TEXT)

    def _shown(self, values: Mapping[str, str]) -> None:
        try:
            sample = int(values.get("sample", "0"))
            found = self.server.workbench.shown(values.get("candidate", ""), values.get("id", ""), sample)
        except (LookupError, ValueError) as error:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"no such candidate, item or sample: {error}"})
        else:
            self._json(HTTPStatus.OK, found)

    def _save(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            told = f"found {length or 'no'} Content-Length, expected at most {MAX_BODY} bytes"
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": told})
            return
        wanted = _edit(self.rfile.read(int(length)))
        if isinstance(wanted, str):
            self._json(HTTPStatus.BAD_REQUEST, {"error": wanted})
            return
        try:
            saved = self.server.workbench.save(**wanted)
        except ConflictError as conflict:
            told = "this answer was edited meanwhile, in another window or process"
            self._json(HTTPStatus.CONFLICT, {"error": told, "now": conflict.text})
        except LookupError as error:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"no such candidate, item or sample: {error}"})
        except (TanrenError, OSError) as error:
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"not saved: {error}"})
        else:
            self._json(HTTPStatus.OK, saved)

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._answer(status, json.dumps(value), _JSON)

    def _answer(self, status: HTTPStatus, text: str, kind: str, more: Mapping[str, str] | None = None) -> None:
        body = text.encode()
        headers = {"Content-Type": f"{kind}; charset=utf-8"} | HEADERS | dict(more or {})
        if len(body) > 4096 and "gzip" in self.headers.get("Accept-Encoding", ""):  # for a tunnel over a slow line
            body = gzip.compress(body, 5)
            headers["Content-Encoding"] = "gzip"
        if status >= HTTPStatus.BAD_REQUEST:  # a body that was not read would be taken for the next request
            headers["Connection"] = "close"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _edit(body: bytes) -> dict[str, Any] | str:
    """Return what to save, or what is wrong with the request."""
    texts = ("candidate", "identity", "text", "seen")
    try:
        values = json.loads(body)
        "".join(values[key] for key in texts).encode()
        return {key: values[key] for key in texts} | {"sample": operator.index(values["sample"])}
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:  # also for a lone surrogate, which no file can hold
        return f"expected JSON with the texts {', '.join(texts)} and the number sample: {error!r}"
