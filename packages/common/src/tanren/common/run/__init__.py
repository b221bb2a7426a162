"""The run directory: what a run leaves behind, written so that nothing is torn, overwritten or half there."""

from ._directory import RunDirectory, create_run, find_open_run, open_run, refuse_existing, resume_command
from ._environment import describe_environment
from ._files import append_line, folder_written_aside, mend_last_line, write_atomically
from ._lock import held
from ._metrics import MetricsWriter, read_events, read_steps, read_validations, write_csv

__all__ = [
    "MetricsWriter",
    "RunDirectory",
    "append_line",
    "create_run",
    "describe_environment",
    "find_open_run",
    "folder_written_aside",
    "held",
    "mend_last_line",
    "open_run",
    "read_events",
    "read_steps",
    "read_validations",
    "refuse_existing",
    "resume_command",
    "write_atomically",
    "write_csv",
]
