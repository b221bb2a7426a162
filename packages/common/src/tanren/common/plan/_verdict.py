"""Does it fit?"""

from __future__ import annotations

from enum import StrEnum

from tanren.common.plan._prediction import Prediction
from tanren.common.plan._target import GIB

# A prediction is not a fact: a run is refused only where it exceeds the free memory by more than the prediction errs.
REFUSED_ABOVE = 1.1
# What `--fit` leaves free: room for the error of the prediction, and for what else comes and goes on a GPU.
MARGIN_SHARE, MARGIN_LEAST = 0.05, int(0.7 * GIB)


class Verdict(StrEnum):
    """Fits; within the error of the prediction; cannot fit."""

    FITS = "fits"
    TIGHT = "tight"
    REFUSED = "refused"


def verdict_of(prediction: Prediction) -> Verdict:
    """Judge a prediction by its device's free memory."""
    free = prediction.target.free
    if prediction.needed > free * REFUSED_ABOVE:
        return Verdict.REFUSED
    return Verdict.FITS if prediction.needed <= free else Verdict.TIGHT


def fits_with_margin(prediction: Prediction) -> bool:
    """Whether it fits with room to spare, so that it may be chosen."""
    free = prediction.target.free
    margin = max(MARGIN_SHARE * free, MARGIN_LEAST) if prediction.target.device == "cuda" else MARGIN_SHARE * free
    return prediction.needed <= free - margin
