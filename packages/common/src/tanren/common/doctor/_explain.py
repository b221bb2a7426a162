"""Reads a log and names the known failures in it, with cause and fix: `tanren doctor explain LOGFILE`.

A log may be huge, in one line, or no text at all. So it is read in blocks, once, and a block is searched for plain
texts first: a regular expression sees only the few lines that hold one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from tanren.common.console import Console
from tanren.common.doctor._known_failures import KNOWN_FAILURES, KnownFailure
from tanren.common.errors import ExitCode, UserError

BLOCK = 1 << 20  # bytes read at a time
LONGEST = 4096  # bytes of a line that are looked at; a message stands at its beginning
SHOWN = 200  # characters of a line that are printed
NEAR = 60  # lines: a traceback from the frame that tells where, to the message at its end

# Colours and cursor movements of a terminal (ECMA-48), and titles of its window.
_ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\r\n]{0,256}(?:\x07|\x1b\\)")
# What a line that reports an error holds; "error" alone is a metric's name more often.
_ERROR_MARKS = (b"Error", b"ERROR", b"error:", b"Exception", b"fatal", b"FAILED", b"Traceback")


@dataclass(frozen=True)
class Line:
    """A line of the log, as it is printed."""

    number: int
    text: str


@dataclass
class Explanation:
    """A known failure that the log holds; line and text are those of its first occurrence."""

    id: str
    what: str
    line: int
    text: str
    count: int
    cause: str
    fix: str
    source: str


@dataclass
class LogReading:
    """What a log was found to hold; the explanations in the order in which they first occur."""

    lines: int = 0
    explanations: list[Explanation] = field(default_factory=list)
    last_error: Line | None = None
    """The last line that looks like an error; looked for only while nothing known was found."""


def explain_log(name: str, *, as_json: bool) -> int:
    """Print what is known about the failures in a log ("-": standard input), and return the exit code.

    Raises UserError where there is no such file.
    """
    if name == "-":
        reading = read_log(sys.stdin.buffer)
    else:
        try:
            with Path(name).open("rb") as log:
                reading = read_log(log)
        except OSError as fault:
            raise UserError(f"{name}: {fault.strerror}: expected a log file, or - for standard input") from fault
    console = Console(stream=sys.stderr if as_json else sys.stdout)
    for row in as_rows(reading, "standard input" if name == "-" else name):
        console.text(row)
    if as_json:
        root = reading.explanations[0].id if reading.explanations else None
        json.dump({"log": name, "likely_root": root, **asdict(reading)}, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    return ExitCode.DONE if reading.explanations else ExitCode.FOUND_WANTING


def as_rows(reading: LogReading, name: str) -> Iterator[str]:
    """Yield what is printed: a row for each failure, or what to do where none is known."""
    found = reading.explanations
    for index, one in enumerate(found):
        root = " (the likely root: the others come after it)" if index == 0 and len(found) > 1 else ""
        times = f", {one.count} times" if one.count > 1 else ""
        rows = [
            f"{one.what}{root}",
            f"  line {one.line}{times}: {one.text}",
            f"  cause: {one.cause}",
            f"  fix: {one.fix}",
        ]
        yield "\n".join([*rows, f"  see: {one.source}"] if one.source else rows)
    if found:
        return
    yield f"{name}: no known failure in {reading.lines} lines"
    if reading.last_error:
        yield f"  the last line that looks like an error, {reading.last_error.number}: {reading.last_error.text}"
        yield "  fix: read upwards from there to the first error; `./pixiw run doctor` examines machine and environment"
    else:
        yield "  fix: give the log of the process that failed, with its standard error (2>&1), of every rank"


def read_log(log: BinaryIO, known: Iterable[KnownFailure] = KNOWN_FAILURES) -> LogReading:
    """Return what the log holds. Lines end with \\n; a \\r (a progress bar) begins the line's text anew."""
    failures = tuple(known)
    marks = {failure: [mark.encode() for mark in failure.marks] for failure in failures}
    afters = {failure.after.encode() for failure in failures if failure.after}
    reading, found, seen = LogReading(), dict[str, Explanation](), dict[bytes, int]()
    ending = b"\n"
    for block in _blocks(log):
        text = _ANSI.sub(b"", block) if b"\x1b" in block else block
        here = [failure for failure in failures if any(mark in text for mark in marks[failure])]
        nearby = [after for after in afters if after in text]
        if here or nearby:
            wanted = {mark for failure in here for mark in marks[failure]} | set(nearby)
            for number, line in _lines_with(text, wanted, reading.lines + 1):
                seen.update((after, number) for after in nearby if after in line)
                _recognise(line, number, here, seen, found)
        if not found:
            reading.last_error = _last_error(text, reading.lines + 1) or reading.last_error
        reading.lines += block.count(b"\n")
        ending = block[-1:]
    reading.lines += ending != b"\n"  # the last line of a log that was cut off
    reading.explanations = list(found.values())
    if found:
        reading.last_error = None
    return reading


def _blocks(log: BinaryIO) -> Iterator[bytes]:
    """Yield the log in pieces that end where a line does; of a line without end only its beginning."""
    rest = b""
    inside = False  # of a line whose beginning was yielded, cut
    while data := log.read(BLOCK):
        if inside:
            end = re.search(rb"[\r\n]", data)
            if end is None:
                continue
            data, inside = data[end.start() :], False
        data = rest + data
        end_of_lines = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        rest = data[end_of_lines:]
        if end_of_lines:
            yield data[:end_of_lines]
        if len(rest) > BLOCK:
            # A \r holds the place of the line's end, which is still to come.
            yield rest[:LONGEST] + b"\r"
            rest, inside = b"", True
    if rest:
        yield rest


def _lines_with(text: bytes, wanted: set[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and beginning of every line that holds a wanted text."""
    for number, line in enumerate(text.split(b"\n"), first):
        for part in line.split(b"\r") if b"\r" in line else (line,):
            beginning = part[:LONGEST]
            if any(one in beginning for one in wanted):
                yield number, beginning


def _recognise(
    line: bytes,
    number: int,
    failures: Iterable[KnownFailure],
    seen: dict[bytes, int],
    found: dict[str, Explanation],
) -> None:
    """Enter the first failure that the line says, or count it once more."""
    text = line.decode("utf-8", errors="replace")
    for failure in failures:
        if failure.after and number - seen.get(failure.after.encode(), -NEAR) >= NEAR:
            continue
        if not any(mark in text for mark in failure.marks):
            continue
        match = re.search(failure.pattern, text)
        if match is None:
            continue
        if failure.id in found:
            found[failure.id].count += 1
        else:
            cause, fix = failure.explained(match)
            shown = _shown(text, match.start())
            found[failure.id] = Explanation(failure.id, failure.what, number, shown, 1, cause, fix, failure.source)
        return


def _last_error(text: bytes, first: int) -> Line | None:
    """Return the last line of a block that looks like an error."""
    position = max(text.rfind(mark) for mark in _ERROR_MARKS)
    if position < 0:
        return None
    begin = max(text.rfind(b"\n", 0, position), text.rfind(b"\r", 0, position)) + 1
    end = min(at for at in (text.find(b"\n", position), position + LONGEST) if at >= 0)
    line = text[max(begin, position - LONGEST) : end].partition(b"\r")[0].decode("utf-8", errors="replace")
    return Line(first + text.count(b"\n", 0, position), _shown(line, 0))


def _shown(text: str, start: int) -> str:
    """Return a line as it can be printed: whole, or cut from where it matters; without control characters."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    if len(plain.strip()) <= SHOWN:
        return plain.strip()
    part = plain[start:].strip()
    return part if len(part) <= SHOWN else part[: SHOWN - 3] + "..."
