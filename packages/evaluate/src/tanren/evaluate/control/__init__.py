"""`evaluate control`: a policy or a model decides hour by hour what a plant does, and is compared with the optimum."""

from ._bootstrap import LEAST_WEEKS, Interval, interval_of_mean, interval_of_share
from ._command import control_command
from ._compare import compare_controlled, is_controlled
from ._vote import Vote, majority

__all__ = [
    "LEAST_WEEKS",
    "Interval",
    "Vote",
    "compare_controlled",
    "control_command",
    "interval_of_mean",
    "interval_of_share",
    "is_controlled",
    "majority",
]
