"""The tiers as they are named on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tanren.common.errors import UserError

FLAG = "--deep"
TIERS = ("kernels", "imports", "vllm", "nccl")
"""In the order in which they are proven."""
ALL = "all"
DEFAULT = "kernels"


def named_tiers(words: Iterable[str]) -> tuple[str, ...]:
    """Return the tiers that are named, each once and in their order; UserError for another word, with the nearest."""
    named = set(words)
    for word in named - {*TIERS, ALL}:
        near = difflib.get_close_matches(word, (*TIERS, ALL), 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{FLAG} {word}: there is no such tier: expected some of {', '.join((*TIERS, ALL))}{hint}")
    return tuple(tier for tier in TIERS if tier in named or ALL in named)


def with_tiers_last(arguments: Sequence[str]) -> list[str]:
    """Return a command line whose flags --deep, each with any number of tiers, are one at its end, with at least one.

    A word after --deep that looks like a path (it holds a dot or a slash) is none of its tiers, but ends them.
    """
    others, tiers, rest, asked = list[str](), list[str](), list(arguments), False
    while rest:
        word = rest.pop(0)
        if word != FLAG and not word.startswith(f"{FLAG}="):
            others.append(word)
            continue
        asked = True
        tiers += word.removeprefix(FLAG).removeprefix("=").replace(",", " ").split()
        while rest and not rest[0].startswith("-") and not set("./") & set(rest[0]):
            tiers.append(rest.pop(0))
    return [*others, FLAG, *named_tiers(tiers or [DEFAULT])] if asked else others
