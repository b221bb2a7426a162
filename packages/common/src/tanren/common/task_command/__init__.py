"""`tanren task`: make a task pack from the skeleton, check that a pack keeps the contract."""

from tanren.common.task_command._check import check_pack
from tanren.common.task_command._commands import run_task
from tanren.common.task_command._finding import Finding

__all__ = ["Finding", "check_pack", "run_task"]
