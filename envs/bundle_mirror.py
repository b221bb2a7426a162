"""A conda channel on this machine alone: serves the conda files of a bundle, and nothing else, on the loopback address.

pixi installs from mirrors over HTTP but not from a folder (pixi issue 4105). Standard library, Python 3.8: it runs
with the machine's own Python.
"""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files that the server was given."""

    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_GET(self) -> None:
        """Send the file."""
        self._answer(send=True)

    def do_HEAD(self) -> None:
        """Send its size alone."""
        self._answer(send=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's name)
        """Say nothing: standard error belongs to pixi."""

    def _answer(self, *, send: bool) -> None:
        path = self.server.files.get(unquote(urlsplit(self.path).path).lstrip("/"))
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND, "not in this bundle")
            return
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            if send:
                shutil.copyfileobj(file, self.wfile, 2**20)


class Mirror(http.server.ThreadingHTTPServer):
    """The server: `files` by the path under which each is asked for ('linux-64/x.conda')."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Take a free port of the loopback address."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client went away in the middle of a file."""


@contextmanager
def serve(files: Mapping[str, Path]) -> Iterator[str]:
    """Serve while the body runs; gives the address, with the slash at its end that pixi joins paths to."""
    with Mirror(files) as mirror:
        threading.Thread(target=mirror.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{mirror.server_address[1]}/"
        finally:
            mirror.shutdown()
