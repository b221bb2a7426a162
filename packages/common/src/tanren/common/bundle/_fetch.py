"""One file over HTTP(S) or from a folder: continued where it broke off, and refused if its sha256 differs."""

from __future__ import annotations

import base64
import netrc
import os
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from tanren.common.errors import MachineError
from tanren.common.workspace import CHUNK, sha256_of

from ._files import Wanted

TIMEOUT = 30  # s without a byte, then the connection is taken for broken
PAUSES = (1.0, 2.0, 4.0, 8.0)  # s before each further attempt that follows one without progress
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}  # and all 5xx: worth another attempt


class Stopped(Exception):  # noqa: N818 (another thread's error or Ctrl-C ended this one)
    """The download was told to stop; what it has stays."""


class Broken(Exception):  # noqa: N818 (not an end: another attempt follows)
    """The connection broke, or the server asks to come again."""


class Web:
    """The user's way to the network: proxies, certificates, and who may ask which host."""

    def __init__(self, environment: Mapping[str, str], pauses: tuple[float, ...] = PAUSES) -> None:
        """Read uv's variables; proxies and SSL_CERT_FILE are urllib's and OpenSSL's own to read."""
        self.pauses = pauses
        self.stop = threading.Event()
        context = ssl.create_default_context()
        if environment.get("SSL_CLIENT_CERT"):
            context.load_cert_chain(environment["SSL_CLIENT_CERT"])
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        self._unchecked = urllib.request.build_opener(urllib.request.HTTPSHandler(context=unchecked))
        self._unchecked_hosts = set(environment.get("UV_INSECURE_HOST", "").replace(",", " ").split())
        names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
        indexes = " ".join(environment.get(name, "") for name in names).split()
        self._users = {
            parts.hostname: _user(parts.netloc) for place in indexes if "@" in (parts := urlsplit(place)).netloc
        }

    def size(self, address: str) -> int | None:
        """Return a file's size in bytes as its server says, None where it does not."""
        try:
            with self._open(address, "HEAD") as answer:
                return _length(answer)
        except (OSError, HTTPException):
            return None

    def fetch(self, wanted: Wanted, partial: Path, advance: Callable[[int], None]) -> None:
        """Make `partial` the wanted file, continuing what it holds; `advance` hears of every byte more (or fewer).

        Raises MachineError where the file cannot be had or is another one (then `partial` is deleted).
        """
        begun_before = partial.is_file() and partial.stat().st_size > 0
        self._complete(wanted, partial, advance)
        found = sha256_of(partial)
        if found != wanted.sha256 and begun_before:  # the part of an earlier start may be the fault: once from nothing
            advance(-partial.stat().st_size)
            partial.unlink()
            self._complete(wanted, partial, advance)
            found = sha256_of(partial)
        if found != wanted.sha256:
            partial.unlink()
            fault = f"{_shown(wanted.address)} has sha256 {found}, expected {wanted.sha256}"
            raise MachineError(
                f"refused: {fault}. It was deleted; another mirror or index may have the file that was locked"
            )

    def _complete(self, wanted: Wanted, partial: Path, advance: Callable[[int], None]) -> None:
        attempt = 0
        while True:
            before = partial.stat().st_size if partial.is_file() else 0
            try:
                self._attempt(wanted, partial, advance)
            except (Broken, urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as broken:
                reason = _reason(broken)
                if isinstance(broken, urllib.error.HTTPError) and broken.code < 500 and broken.code not in PASSING:
                    raise MachineError(f"{_shown(wanted.address)} cannot be had: {reason}") from broken
                after = partial.stat().st_size if partial.is_file() else 0
                attempt = 1 if after > before else attempt + 1
                if attempt > len(self.pauses):
                    fault = f"{_shown(wanted.address)} cannot be had: {reason}"
                    raise MachineError(
                        f"{fault}: look at the network; the same command continues from here"
                    ) from broken
                if self.stop.wait(self.pauses[attempt - 1]):
                    raise Stopped from broken
            else:
                return

    def _attempt(self, wanted: Wanted, partial: Path, advance: Callable[[int], None]) -> None:
        have = partial.stat().st_size if partial.is_file() else 0
        if have and have == wanted.size:
            return
        parts = urlsplit(wanted.address)
        if parts.scheme == "file":
            shutil.copyfile(unquote(parts.path), partial)
            advance(partial.stat().st_size - have)
            return
        try:
            answer = self._open(wanted.address, "GET", have)
        except urllib.error.HTTPError as error:
            if not (have and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                raise
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):  # all of it was there already
                return
            advance(-have)
            partial.unlink()
            raise Broken("the server has less than was downloaded before") from error
        with answer:
            goes_on = answer.status == HTTPStatus.PARTIAL_CONTENT
            if have and not goes_on:  # the server knows no ranges and sends all of it again
                advance(-have)
                have = 0
            expected = _length(answer)
            got = 0
            with partial.open("ab" if goes_on else "wb") as file:
                while piece := answer.read(CHUNK):
                    file.write(piece)
                    got += len(piece)
                    advance(len(piece))
                    if self.stop.is_set():
                        raise Stopped
        if expected is not None and got < expected:
            raise Broken(f"the connection ended after {have + got} of {have + expected} bytes")

    def _open(self, address: str, method: str, start: int = 0) -> HTTPResponse:
        parts = urlsplit(address)
        host = parts.hostname or ""
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        request = urllib.request.Request(plain, method=method, headers={"User-Agent": "tanren-bundle"})  # noqa: S310
        if start:
            request.add_header("Range", f"bytes={start}-")
        user = _user(parts.netloc) if "@" in parts.netloc else self._users.get(host) or _netrc_user(host)
        if user:  # not handed on to where the server may redirect
            request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
        opener = self._unchecked if self._unchecked_hosts & {host, parts.netloc.rpartition("@")[2]} else self._opener
        answer: HTTPResponse = opener.open(request, timeout=TIMEOUT)
        return answer


def _length(answer: HTTPResponse) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _user(netloc: str) -> str:
    return unquote(netloc.rpartition("@")[0])


def _netrc_user(host: str) -> str:
    """Return 'user:password' of the user's netrc file for a host, '' without one."""
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(str(path)).authenticators(host) if path.is_file() else None
    except (netrc.NetrcParseError, OSError):
        return ""  # a netrc that others cannot read either is no reason to stop here
    return f"{found[0]}:{found[2]}" if found else ""


def _shown(address: str) -> str:
    """Return an address as it may be printed: without user and password."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = getattr(error, "reason", None) or error
    return str(getattr(cause, "strerror", None) or cause) or type(error).__name__
