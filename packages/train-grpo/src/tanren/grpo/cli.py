"""The command train-grpo: reads the configuration, answers the quick questions, and only then imports the trainer.

`--help`, `--dry-run` and `schema` import neither torch nor transformers, so that they answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tanren.common.command import run_command
from tanren.common.recipe_command import read_arguments
from tanren.grpo.command import COMMAND


def main() -> None:
    """Run train-grpo with the process's arguments."""
    sys.exit(run_command(_main))


def _main(arguments: Sequence[str]) -> int:
    request = read_arguments(COMMAND, arguments)
    if request is None:
        return 0
    from tanren.grpo.plan import make_plan

    plan = make_plan(request.loaded, request.resume)
    if request.verify:
        from tanren.grpo.verify import run_verify

        return run_verify(plan, request.resume or "latest")
    if request.dry_run:
        request.print_plan(plan.facts(), plan.warnings)
        return 0
    from tanren.grpo.job import run_job

    return run_job(plan, resume=request.resume)
