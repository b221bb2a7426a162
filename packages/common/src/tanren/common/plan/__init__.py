"""What a run will need, before it starts and without its weights: memory by component, work, time.

Nothing here imports torch; what traces a training step does, and is in `tanren.common.plan.trace`.
"""

from tanren.common.plan._categories import LOSS, RESIDENT
from tanren.common.plan._changes import Remedy, remedies
from tanren.common.plan._command import run_plan
from tanren.common.plan._fit import Fit, fit
from tanren.common.plan._job import Change, Choice, Job, Layout, Load, Planner, find_planner
from tanren.common.plan._prediction import Prediction, predict
from tanren.common.plan._table import as_json, table, verdict_line
from tanren.common.plan._target import CUDA_CONTEXT, GIB, Target, find_target, present_gpu
from tanren.common.plan._verdict import Verdict, fits_with_margin, margin, verdict_of

__all__ = [
    "CUDA_CONTEXT",
    "GIB",
    "LOSS",
    "RESIDENT",
    "Change",
    "Choice",
    "Fit",
    "Job",
    "Layout",
    "Load",
    "Planner",
    "Prediction",
    "Remedy",
    "Target",
    "Verdict",
    "as_json",
    "find_planner",
    "find_target",
    "fit",
    "fits_with_margin",
    "margin",
    "predict",
    "present_gpu",
    "remedies",
    "run_plan",
    "table",
    "verdict_line",
    "verdict_of",
]
