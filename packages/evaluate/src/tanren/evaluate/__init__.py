"""Evaluation: generate, judge, compare with intervals, report: the command evaluate."""
