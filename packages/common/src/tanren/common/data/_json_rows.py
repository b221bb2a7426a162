"""Rows of JSON text: one object a line, or one list of objects. A piece of the file is in memory at a time."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import IO, Any

from tanren.common.data._records import MAX_ROW_BYTES, Fault, FaultyRowError, Record

CHUNK = 1 << 16
# The decoder tells of a value that is cut off at the place where it stopped, or where the last word or escape began.
_NEAR_THE_END = 16
_SPACE = re.compile(r"[ \t\r\n]*")
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")  # what the error handler surrogateescape makes of a byte
_TOO_EARLY = "not JSON: the file ends before its list of rows does"


def read_json(stream: IO[bytes], path: str, *, line_is_row: bool) -> Iterator[Record | Fault]:
    """Yield the rows of a JSON list, or of a file with one JSON object a line: the first character tells which it is.

    `line_is_row`: the file's name says so. Else a first line that is no JSON ends the file: it is one large object.
    """
    if _first_character(stream) == b"[":
        yield from _List(stream).rows(path)
    else:
        yield from _lines(stream, path, line_is_row=line_is_row)


def _first_character(stream: IO[bytes]) -> bytes:
    head = b""
    while not head and (piece := stream.read(CHUNK)):
        head = piece.removeprefix(codecs.BOM_UTF8).lstrip()
    stream.seek(0)
    return head[:1]


def _lines(stream: IO[bytes], path: str, *, line_is_row: bool) -> Iterator[Record | Fault]:
    """Lines end with a line feed alone: a text may hold U+2028 or U+0085, which JSON leaves as they are."""
    strict = StrictJson()
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        place = f"{path}:{number}"
        if len(line) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(CHUNK)
            yield Fault(place, f"a line of more than {MAX_ROW_BYTES >> 20} MiB; expected one row a line")
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield Record(number, place, strict.value_of(_decoded(line)))
        except FaultyRowError as error:
            if number == 1 and not line_is_row:
                yield Fault(place, f"{error}; expected a list of rows, or one row a line", rows=0)
                return
            yield Fault(place, str(error))


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        looks = "; it looks like UTF-16" if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        raise FaultyRowError(f"not UTF-8 text: {error.reason} at byte {error.start + 1} of the line{looks}") from None


class StrictJson:
    """Reads JSON and refuses what JSON does not have (NaN) or what means two things (a key twice in one object)."""

    def __init__(self) -> None:
        self._decoder = JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        self._found: list[str] = []

    def value_of(self, text: str) -> Any:
        """Return the value of a text that is one JSON value. Raises FaultyRowError."""
        self._found.clear()
        try:
            value = self._decoder.decode(text)
        except JSONDecodeError as error:
            if text[error.pos : error.pos + 1] == "\0":
                raise FaultyRowError(f"not JSON: a NUL character at column {error.colno}; is it text?") from None
            raise FaultyRowError(f"not JSON: {error.msg} at column {error.colno}") from None
        except (RecursionError, ValueError) as error:
            raise FaultyRowError(_beyond(error)) from None
        self.refuse_found()
        return value

    def begin_of(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value that begins at `start` and where it ends; what is wrong inside is kept for `refuse_found`.

        Raises JSONDecodeError, and FaultyRowError for what Python cannot read.
        """
        self._found.clear()
        try:
            return self._decoder.raw_decode(text, start)
        except JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:
            raise FaultyRowError(_beyond(error)) from None

    def refuse_found(self) -> None:
        """Raise FaultyRowError for the first thing that is wrong inside the value that was read last."""
        if self._found:
            raise FaultyRowError(self._found[0])

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self._found.append(f"the key {twice!r} occurs twice in one object; which of the two holds is not said")
        return found

    def _constant(self, word: str) -> None:
        self._found.append(f"not JSON: found {word}, which JSON does not have; write null or a number")


def _beyond(error: RecursionError | ValueError) -> str:
    """What Python's decoder does not read though it may be JSON: deep nesting, a number of more than 4300 digits."""
    return f"JSON that cannot be read: {'nested too deep' if isinstance(error, RecursionError) else error}"


class _List:
    """A JSON list of which the piece that is being read is in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.strict = StrictJson()
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self.buffer = ""
        self.at = 0
        self.line = 1
        self.number = 0
        self.ended = False

    def rows(self, path: str) -> Iterator[Record | Fault]:
        """Yield the entries. A fault in the list itself ends it: nobody can tell where the next row begins."""
        try:
            yield from self._entries(path)
        except FaultyRowError as error:
            where = f"in or behind row {self.number}; what follows it cannot be read"
            yield Fault(f"{path}:{self.line}", f"{error} ({where})", rows=0)

    def _entries(self, path: str) -> Iterator[Record | Fault]:
        self._skip("[")
        while self._next() != "]":
            self.number += 1
            place = f"{path}: row {self.number} (line {self.line})"
            value, fault = self._value()
            yield Record(self.number, place, value) if fault is None else Fault(place, fault)
            if self._next() != "]":
                self._skip(",")
                if self._next() == "]":
                    raise FaultyRowError("not JSON: a comma behind the last row")
        self._skip("]")
        if self._next():
            raise FaultyRowError("not JSON: more text behind the list of rows")

    def _next(self) -> str:
        """Return the next character that is no space, '' at the end."""
        while True:
            space = _SPACE.match(self.buffer, self.at)
            assert space is not None, "it matches nothing, too"
            self._advance(space.end())
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if self.ended:
                return ""
            self._more(CHUNK)

    def _skip(self, expected: str) -> None:
        found = self._next()
        if found != expected:
            raise FaultyRowError(f"not JSON: found {found!a}, expected {expected!r}" if found else _TOO_EARLY)
        self._advance(self.at + 1)

    def _value(self) -> tuple[Any, str | None]:
        """Go behind the value that begins here; return it, and what is wrong with it alone."""
        wanted = CHUNK
        while True:
            try:
                value, end = self.strict.begin_of(self.buffer, self.at)
                # A number that ends with the buffer may have more digits behind it.
                if end < len(self.buffer) or self.ended:
                    return value, self._what_is_wrong(end)
            except JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - _NEAR_THE_END
                if self.ended or not cut_off:
                    self._advance(error.pos)
                    raise FaultyRowError(_TOO_EARLY if cut_off else f"not JSON: {error.msg}") from None
            if len(self.buffer) - self.at > MAX_ROW_BYTES:
                raise FaultyRowError(f"a row of more than {MAX_ROW_BYTES >> 20} MiB")
            self._more(wanted)
            wanted *= 2  # so that a large row is parsed again a few times only

    def _what_is_wrong(self, end: int) -> str | None:
        begin = self.at
        self._advance(end)
        if _NOT_UTF8.search(self.buffer, begin, end):
            return "not UTF-8 text"
        try:
            self.strict.refuse_found()
        except FaultyRowError as error:
            return str(error)
        return None

    def _advance(self, end: int) -> None:
        self.line += self.buffer.count("\n", self.at, end)
        self.at = end

    def _more(self, size: int) -> None:
        piece = self.stream.read(size)
        self.buffer = self.buffer[self.at :] + self.decoder.decode(piece, final=not piece)
        self.at = 0
        self.ended = not piece
