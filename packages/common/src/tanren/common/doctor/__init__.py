"""The doctor: is this machine, and the environment on it, fit to train? Says so before a GPU hour is spent.

A check is a function from a `Subject` to findings; a `Finding` is one row: what, found, needed, verdict, fix. This
process never imports torch: what must be imported is imported in child processes.

And what went wrong? `explain_log` reads a log and names the known failures in it, with cause and fix.
"""

from tanren.common.doctor._examination import examine, run_doctor
from tanren.common.doctor._explain import Explanation, LogReading, explain_log, read_log
from tanren.common.doctor._finding import Finding, Verdict, worst
from tanren.common.doctor._recommend import run_recommend
from tanren.common.doctor._subject import Subject, read_subject

__all__ = [
    "Explanation",
    "Finding",
    "LogReading",
    "Subject",
    "Verdict",
    "examine",
    "explain_log",
    "read_log",
    "read_subject",
    "run_doctor",
    "run_recommend",
    "worst",
]
