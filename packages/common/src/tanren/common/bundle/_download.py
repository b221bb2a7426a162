"""All files of a bundle, a few at a time, with one bar; Ctrl-C leaves what the same command continues from."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from tanren.common.bundle_manifest import PARTIAL, BundleFile
from tanren.common.console import Bar, Console
from tanren.common.errors import MachineError
from tanren.common.workspace import sha256_of

from ._fetch import Stopped, Web
from ._files import Wanted

AT_ONCE = 6  # files; more does not help one disk and troubles small mirrors
ASKED_AT_ONCE = 24  # sizes: each is a connection and no data
DRAWN_EVERY = 0.2  # s
SAID_EVERY = 15.0  # s, where no bar is drawn
MB = 1_000_000
Item = TypeVar("Item")


@dataclass
class Progress:
    """Bytes and files done, told by all threads."""

    bytes: int = 0
    files: int = 0
    downloaded: int = 0
    """Bytes that came from the network or a folder in this start."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, count: int) -> None:
        """Count bytes that were there and are checked."""
        with self._lock:
            self.bytes += count

    def fetched(self, count: int) -> None:
        """Count bytes that came now (fewer than none: they are fetched again)."""
        with self._lock:
            self.bytes += count
            self.downloaded += max(count, 0)

    def finished(self) -> None:
        """Count a file."""
        with self._lock:
            self.files += 1


def with_sizes(files: Sequence[Wanted], folder: Path, web: Web) -> list[Wanted]:
    """Return the files with the sizes that neither lock nor index says, asked of their servers where not there yet."""
    sizes: dict[str, int | None] = {}

    def ask(file: Wanted) -> None:
        sizes[file.path] = web.size(file.address)

    here = {file.path: (folder / file.path).stat().st_size for file in files if (folder / file.path).is_file()}
    unknown = [file for file in files if file.size is None and file.path not in here]
    in_threads(ask, unknown, web.stop, lambda: None, at_once=ASKED_AT_ONCE)
    return [replace(file, size=file.size or here.get(file.path) or sizes.get(file.path)) for file in files]


def download(files: Sequence[Wanted], folder: Path, web: Web, console: Console, progress: Progress) -> list[BundleFile]:
    """Bring every file into the folder, checked; return them with their sizes.

    Raises MachineError for a file that cannot be had, is another one, or finds no room.
    """
    partials = folder / PARTIAL
    known = sum(file.size or 0 for file in files)
    missing = sum(_missing(file, folder, partials) for file in files)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise MachineError(
            f"{folder}: {missing / 1e9:.1f} GB are still to fetch and {free / 1e9:.1f} GB are free: make room"
        )

    def bring(file: Wanted) -> None:
        target = folder / file.path
        if target.is_file():
            keep_or_refuse(target, file.sha256, progress)
        else:
            partial = partials / file.sha256
            progress.read(partial.stat().st_size if partial.is_file() else 0)
            web.fetch(file, partial, progress.fetched)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
        progress.finished()

    with console.bar("bundle", -(-known // MB), "MB") as bar:
        try:
            in_threads(bring, files, web.stop, Reporter(bar, console, progress, len(files)).look)
        except KeyboardInterrupt:
            console.line(f"stopped after {progress.files} of {len(files)} files: the same command goes on from here")
            raise
    return [BundleFile(file.kind, file.path, (folder / file.path).stat().st_size, file.sha256) for file in files]


def keep_or_refuse(path: Path, sha256: str, progress: Progress) -> None:
    """Keep a finished file that is the right one; delete another and raise MachineError."""
    found = sha256_of(path, progress.read)
    if found != sha256:
        path.unlink()
        fault = f"{path} had sha256 {found}, expected {sha256}"
        raise MachineError(f"refused: {fault}. It was deleted; the same command fetches it again")


@dataclass
class Reporter:
    """Tells people how far it is: on the bar, or every few seconds in a line."""

    bar: Bar
    console: Console
    progress: Progress
    files: int
    said: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Draw, or say if it is time to."""
        facts = f"{self.progress.files}/{self.files} files"
        done = self.progress.bytes / MB
        if self.console.live:
            self.bar.advance(done, facts)
        elif time.monotonic() - self.said >= SAID_EVERY:
            self.said = time.monotonic()
            self.bar.report(round(done), facts)


def in_threads(
    work: Callable[[Item], None],
    items: Sequence[Item],
    stop: threading.Event,
    look: Callable[[], None],
    at_once: int = AT_ONCE,
) -> None:
    """Do the work on every item, a few at a time; the first error, or Ctrl-C, stops all and is raised.

    Daemon threads: a connection that hangs must not keep a command alive that was told to end.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    errors: list[Exception] = []

    def worker() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                work(item)
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 (raised in the main thread)
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(at_once, len(items)))]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and not errors:
            next(thread for thread in threads if thread.is_alive() or thread is threads[-1]).join(DRAWN_EVERY)
            look()
    except BaseException:
        stop.set()
        raise
    look()
    if errors:
        raise errors[0]


def _missing(file: Wanted, folder: Path, partials: Path) -> int:
    if (folder / file.path).is_file():
        return 0
    partial = partials / file.sha256
    return max((file.size or 0) - (partial.stat().st_size if partial.is_file() else 0), 0)
