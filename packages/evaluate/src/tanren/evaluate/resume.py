"""The run that `evaluate --resume` goes on with: unfinished, and with the very same settings."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from tanren.common.config import Loaded, dump_toml, flatten
from tanren.common.errors import UserError
from tanren.common.run import RunDirectory, find_open_run
from tanren.evaluate.config import EvaluateConfig

# Where the run lies, and how a server is asked: neither changes what is generated.
_FREE = (
    "output.",
    "requests.parallel",
    "requests.timeout_s",
    "requests.total_s",
    "requests.key_variable",
    "generation.server",
)


def find_resumed(which: str, loaded: Loaded[EvaluateConfig]) -> RunDirectory:
    """Find the run: `latest` (the newest of this recipe that is not finished) or a path.

    Raises UserError if there is none, if it is finished, or if a setting that changes what is generated is another now.
    """
    config = loaded.config
    run = find_open_run(which, config.output.runs, config.name)
    then = _comparable(run.read_config())
    now = _comparable(tomllib.loads(dump_toml(loaded.values(), {})))
    differing = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if differing:
        told = "; ".join(f"{key}: then {_said(then, key)}, now {_said(now, key)}" for key in differing)
        raise UserError(
            f"--resume {run.path}: the settings are not those of that run ({told}); give the same recipe and flags, or resume with "
            f"evaluate {run.config} --resume {run.path}"
        )
    return run


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(values).items() if not key.startswith(_FREE)}


def _said(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not set"
