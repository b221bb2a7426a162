"""The run directory: what a run leaves behind, written so that nothing is torn, overwritten or half there."""

from ._directory import RunDirectory, create_run, find_open_run, open_run, refuse_existing
from ._environment import describe_environment
from ._files import append_line, folder_written_aside, write_atomically
from ._lock import held
from ._metrics import MetricsWriter, read_events, read_steps, write_steps_csv

__all__ = [
    "MetricsWriter",
    "RunDirectory",
    "append_line",
    "create_run",
    "describe_environment",
    "find_open_run",
    "folder_written_aside",
    "held",
    "open_run",
    "read_events",
    "read_steps",
    "refuse_existing",
    "write_atomically",
    "write_steps_csv",
]
