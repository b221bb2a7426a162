"""A headless Chromium that tests drive over its DevTools protocol; where none is installed, the tests skip."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class NavigatedError(Exception):
    """The page went on to another one while it was asked."""


class ThrownError(AssertionError):
    """A script of a test threw: what it looked for is not in the page, or not yet."""


class Browser:
    """One tab. Every call waits for its answer; what the page logged as an error is in `errors`."""

    def __init__(self, address: str) -> None:
        """Take the address of the tab's web socket."""
        self.errors: list[str] = []
        self.requested: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._address = address
        self._number = 0
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    async def _connect(self) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(self._address, max_msg_size=0)

    def close(self) -> None:
        """Let go of the tab."""
        self._loop.run_until_complete(self._socket.close())
        self._loop.run_until_complete(self._session.close())
        self._loop.close()

    def open(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of `width` x `height` pixels and wait until its script is ready."""
        self.errors.clear()
        self.requested.clear()
        self._call("Page.navigate", url="about:blank")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")

    def run(self, script: str) -> Any:
        """Return what a script evaluates to, as JSON can carry it."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise ThrownError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition of the page is true, at most 20 seconds; one that throws is not true yet."""
        last = time.monotonic() + 20
        while not self._holds(condition):
            assert time.monotonic() < last, f"never true: {condition}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press a key as a keyboard does."""
        text = {"Enter": "\r"}.get(key, "")
        code = {"Enter": 13, "Tab": 9, "Escape": 27}[key]
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page, as PNG."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.run(f"Boolean({condition})"))
        except (NavigatedError, ThrownError):  # between two pages, or two states of one, elements are missing
            return False

    def _call(self, method: str, **parameters: Any) -> Any:
        return self._loop.run_until_complete(self._answer(method, parameters))

    async def _answer(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=30)
            if message.get("id") == self._number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise NavigatedError
                assert "error" not in message, (method, message)
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        values = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(values["request"]["url"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(values["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])


@contextmanager
def headless() -> Iterator[Browser]:
    """Start a browser with a profile of its own and give its tab. Skips the test where there is none."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(_PROGRAMS)})")
    pytest.importorskip("aiohttp", reason="the browser is driven over a web socket")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            browser = Browser(_tab(Path(profile), process))
            yield browser
            browser.close()
        finally:
            process.terminate()
            process.wait(timeout=20)


def _tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the address of the first tab's web socket."""
    import urllib.request

    said = profile / "DevToolsActivePort"
    last = time.monotonic() + 60
    while not (said.is_file() and said.read_text().count("\n")):
        assert process.poll() is None, "the browser ended at once"
        assert time.monotonic() < last, "the browser never listened"
        time.sleep(0.05)
    port = int(said.read_text().split()[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
        tabs = json.load(answer)
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
