"""`tanren view RUN`: a run's items in the browser, with every candidate's answer, and answers that can be edited."""

from ._command import view_run

__all__ = ["view_run"]
