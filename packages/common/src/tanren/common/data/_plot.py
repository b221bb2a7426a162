"""The distribution of token lengths as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tanren.common.data._distribution import LIMITS, Lengths
from tanren.common.errors import UserError

BINS = 60


def plot_lengths(lengths: Mapping[str, Lengths], path: Path, model: str) -> None:
    """Write a histogram of each source, with the share of rows that a limit covers as a curve, as PNG or SVG."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    counts = figure.subplots()
    shares = counts.twinx()
    longest = max(max(one.tokens) for one in lengths.values())
    for index, (name, one) in enumerate(lengths.items()):
        ordered = np.sort(np.asarray(one.tokens))
        colour = f"C{index % 10}"
        counts.hist(ordered, bins=BINS, range=(0, longest), alpha=0.5, color=colour, label=Path(name).name)
        covered = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
        shares.step(ordered, covered, where="post", color=colour)
    for limit in LIMITS:
        if limit <= longest:
            counts.axvline(limit, color="0.8", linewidth=0.8, zorder=0)
    counts.set(xlabel=f"tokens of a row ({model})", ylabel="rows", xlim=(0, longest))
    shares.set(ylabel="rows of at most so many tokens, %", ylim=(0, 100))
    counts.legend(loc="center right")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with mpl.rc_context({"svg.hashsalt": "tanren"}):
            figure.savefig(aside, dpi=120, format=path.suffix[1:].lower())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"the plot {path} cannot be written: {error.strerror or error}") from None
