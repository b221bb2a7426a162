"""Lines of JSONL text, numbered as an editor numbers them."""

from __future__ import annotations

from collections.abc import Iterator


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for the lines that are not blank.

    Not splitlines(): a text may hold U+2028 or U+0085, which JSON leaves as they are.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
