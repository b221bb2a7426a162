"""The process of a probe: it answers one request on standard input with one line on standard output."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from tanren.common.config import Loaded
from tanren.common.models.device import set_cuda_variables
from tanren.common.plan._job import Choice, find_planner
from tanren.common.plan._probe import MARK
from tanren.common.plan._target import find_target


def main() -> None:
    """Build the recipe's model with random weights, and measure two steps."""
    request: dict[str, Any] = json.load(sys.stdin)
    set_cuda_variables()
    from tanren.common.plan._probe_steps import measure

    planner = find_planner(request["command"])
    config = planner.command.model.model_validate(request["config"])
    target = find_target(None, None, request["config"]["model"]["device"])
    job = planner.job(Loaded(config, {}, None), target)
    measured = measure(job, Choice(**request["choice"]), target.device)
    sys.stdout.write(MARK + json.dumps(asdict(measured)) + "\n")


if __name__ == "__main__":
    main()
