"""Awkward strings: right in every format, and wrong in most when copied without quotes or escapes."""

from __future__ import annotations

import random

from .traits import Traits

_UNICODE = (
    "東京", "さくら", "寿司セット", "横浜市", "はい、どうぞ",
    "Zoë", "José Núñez", "Łódź", "Ærø", "Straße", "crème brûlée", "Ελλάδα",
    "Привет", "naïve café", "jalapeño 🌶️", "🚀 launch", "rocket 🎉", "½ cup", "20 °C", "€ 12", "x ≤ y",
    "“quoted”", "São Paulo",
)  # fmt: skip

_LOOKS_TYPED = ("12", "-3.5", "1e5", "0", "true", "false", "1.10", "2024")
"""Texts that JSON reads as numbers or booleans."""

_LOOKS_TYPED_IN_YAML = (
    "yes",
    "no",
    "null",
    "~",
    "on",
    "off",
    "Yes",
    "NULL",
    "007",
    "0x1F",
    "12:30",
    "1_000",
    ".5",
    "+49",
    "TRUE",
)
"""Texts that YAML 1.1 reads as something else, and JSON's natural typing does not."""

_PATTERNS = (
    "{}: {}", "# {}", "{} #{}", '"{}" {}', "the '{}'", "{}, {}",
    "<{}>", "{} & {}", "{} < {}", "- {}", "? {}", "[{}]", "{{{}}}", "!{}",
    "&{}", "*{}", "@{}", "%{}", "`{}`", "| {}",
    "> {}", "{}:", "{} = {}", "C:\\{}\\{}", "{}\n{}", "{}: {}\n# {}", "{};{}", "{}'s {}",
    "{}, \"{}\"", " {}", "{} ", "{}\t{}", "https://{}.example/?a=1&b=2",
    "]]>{}", "\\n {}", "{} -- {}", "=1+{}", "",
)  # fmt: skip


def awkward_text(rng: random.Random, plain: str, traits: Traits) -> str:
    """Return an awkward string that the traits admit, in most cases one that holds the plain text."""
    while True:
        roll = rng.random()
        if roll < 0.3:
            candidate = rng.choice(_UNICODE)
        elif roll < 0.42:
            candidate = rng.choice(_LOOKS_TYPED)
        elif roll < 0.55:
            candidate = rng.choice(_LOOKS_TYPED_IN_YAML)
        else:
            candidate = rng.choice(_PATTERNS).format(plain, rng.choice(_SECOND), rng.choice(_SECOND))
        if traits.admit(candidate):
            return candidate


_SECOND = ("note", "red", "two", "left", "new", "old", "spare", "top")
"""The second word of a pattern."""
