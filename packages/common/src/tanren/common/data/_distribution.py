"""Lengths in tokens: their distribution, what a limit covers, and the limit to take."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

LIMITS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 131072)
"""Usual limits, in tokens."""
COVERED = 0.95
"""The recommended limit covers this share of the rows."""
PERCENTILES = (50, 75, 90, 95, 99)


@dataclass
class Lengths:
    """The lengths of some rows, in tokens; eight bytes a row."""

    tokens: array[int] = field(default_factory=lambda: array("I"))
    supervised: array[int] = field(default_factory=lambda: array("I"))

    def add(self, tokens: int, supervised: int) -> None:
        """Take a row."""
        self.tokens.append(tokens)
        self.supervised.append(supervised)

    def coverage(self) -> dict[int, float]:
        """Return the share of the rows that each usual limit covers, up to the first that covers all."""
        import numpy as np

        ordered = np.sort(np.asarray(self.tokens))
        shares: dict[int, float] = {}
        for limit in LIMITS:
            shares[limit] = float(np.searchsorted(ordered, limit, side="right") / len(ordered))
            if shares[limit] == 1:
                break
        return shares

    def recommended_limit(self) -> int | None:
        """Return the smallest usual limit that covers COVERED of the rows; None where none does."""
        return next((limit for limit, share in self.coverage().items() if share >= COVERED), None)

    def beyond(self, limit: int) -> dict[str, int]:
        """Return what a limit costs: rows that are longer, all their tokens, and those of them behind the limit."""
        longer = [length for length in self.tokens if length > limit]
        total = sum(longer)
        return {"rows": len(longer), "tokens_dropped": total, "tokens_cut": total - limit * len(longer)}

    def as_json(self) -> dict[str, Any]:
        """Return the statistics: mean, median, standard deviation (of the population), extremes, percentiles, coverage.

        A percentile between two rows is interpolated between them.
        """
        import numpy as np

        tokens, supervised = np.asarray(self.tokens), np.asarray(self.supervised)
        percentiles = dict(zip(PERCENTILES, np.percentile(tokens, PERCENTILES), strict=True))
        return {
            "rows": len(tokens),
            "tokens": int(tokens.sum()),
            "supervised_tokens": int(supervised.sum()),
            "mean": round(float(tokens.mean()), 2),
            "median": float(percentiles[50]),
            "sd": round(float(tokens.std()), 2),
            "min": int(tokens.min()),
            "max": int(tokens.max()),
            **{f"p{share}": round(float(value), 2) for share, value in percentiles.items()},
            "coverage": {str(limit): round(share, 6) for limit, share in self.coverage().items()},
        }
