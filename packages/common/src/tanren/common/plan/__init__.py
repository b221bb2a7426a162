"""What a run will need, before it starts and without its weights: memory by component, work, time.

Nothing here imports torch; what traces a training step does, and is in `tanren.common.plan.trace`.
"""

from tanren.common.plan._command import run_plan
from tanren.common.plan._job import Change, Choice, Job, Layout, Planner, find_planner
from tanren.common.plan._prediction import Prediction, predict
from tanren.common.plan._table import table
from tanren.common.plan._target import GIB, Target, find_target
from tanren.common.plan._verdict import Verdict, verdict_of

__all__ = [
    "GIB",
    "Change",
    "Choice",
    "Job",
    "Layout",
    "Planner",
    "Prediction",
    "Target",
    "Verdict",
    "find_planner",
    "find_target",
    "predict",
    "run_plan",
    "table",
    "verdict_of",
]
