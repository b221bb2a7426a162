"""Bounds on what a parser reads: completions are hostile text, and judging one must take milliseconds."""

from __future__ import annotations

from .values import MAX_NUMBER_CHARACTERS, Value

MAX_BYTES = 64 * 1024
"""Largest text that is read, in bytes of UTF-8. The largest gold document has about 5 KiB."""

MAX_COMPLETION = 4 * MAX_BYTES
"""Longest completion, in characters, in which an answer is looked for."""

MAX_DEPTH = 64
"""Deepest nesting of lists and mappings. Gold documents reach 5; Python's own stack ends near 1000."""

MAX_NODES = 3000
"""Most values (scalars, lists and mappings) in one document. Gold documents reach about 300."""

MAX_INTEGER_BITS = 4 * MAX_NUMBER_CHARACTERS
"""Widest integer, where the parser makes one before its text can be measured (hexadecimal in TOML)."""


class FormatError(Exception):
    """A text that is no document of its format. `absent` says that no document was even attempted."""

    def __init__(self, message: str, *, absent: bool = False) -> None:
        """Take the message: what was found and, where that helps, what was expected."""
        super().__init__(message)
        self.absent = absent


class BrokenSyntaxError(FormatError):
    """What no parser of the format reads, unlike what is only refused here."""


def check_text(text: str, max_bytes: int = MAX_BYTES) -> None:
    """Raise FormatError unless the text is Unicode without NUL and has at most `max_bytes` bytes of UTF-8."""
    if len(text) > max_bytes:
        raise FormatError(f"too long: more than {max_bytes} bytes")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise FormatError(f"not Unicode text: a lone surrogate at character {error.start}") from None
    if size > max_bytes:
        raise FormatError(f"too long: {size} bytes, at most {max_bytes} are read")
    if "\0" in text:
        raise FormatError(f"a NUL character at character {text.index(chr(0))}")


def check_value(value: Value) -> None:
    """Raise FormatError when a parsed value is nested too deep, has too many nodes or too wide an integer."""
    nodes = 0
    level: list[Value] = [value]
    depth = 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH + 1:  # scalars sit one level below the deepest list or mapping
            raise FormatError(f"nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise FormatError(f"more than {MAX_NODES} values")
        below: list[Value] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, int) and node.bit_length() > MAX_INTEGER_BITS:
                raise FormatError(f"an integer of more than {MAX_INTEGER_BITS} bits")
        level = below


def check_number(text: str) -> None:
    """Raise FormatError when the digits of a number are too many to be one of a document."""
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise FormatError(f"a number of {len(text)} characters, at most {MAX_NUMBER_CHARACTERS} are read")
