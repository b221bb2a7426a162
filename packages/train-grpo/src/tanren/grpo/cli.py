"""The command train-grpo: says plainly that this version cannot do it yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tanren.common.command import run_command
from tanren.common.errors import UserError


def main() -> None:
    """Run train-grpo with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    del arguments
    raise UserError("train-grpo is not part of this version; train-sft and evaluate are")
