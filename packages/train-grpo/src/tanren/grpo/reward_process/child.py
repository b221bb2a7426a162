"""The process that runs rewards and parsers, which are the user's code: `python -m tanren.grpo.reward_process.child IN OUT`.

It is started once and kept. Requests are pickled (the trainer is trusted), answers are JSON. What is printed goes to its
standard output and error, which the trainer has pointed at a file; the pipes of the messages are others.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanren.common.task_contract import Parsed, Row
from tanren.common.workspace import workspace_root
from tanren.grpo.reward_process.load import load_function
from tanren.grpo.reward_process.pipe import ClosedError, receive, send
from tanren.grpo.reward_process.protocol import PARSE, TAKEN, Request, Setup

if TYPE_CHECKING:
    from tanren.common.task_packs import TaskPack

NEVER = math.inf
LONGEST_TEXT = 2000  # characters of an error's message; a library may put a whole tensor into one


def main(arguments: Sequence[str]) -> None:
    """Load what the setup names, say so, then answer requests until the trainer is gone."""
    incoming, outgoing = (int(one) for one in arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_all, args=(incoming, requests), daemon=True).start()
    sys.path += [str(workspace_root() or Path.cwd()), str(Path.cwd())]
    setup: Setup = pickle.loads(requests.get())  # noqa: S301 (from the trainer)
    try:
        calls = _load(setup)
    except BaseException as error:  # noqa: BLE001 (the user's code, up to sys.exit: told to the trainer)
        _answer(outgoing, {"error": _said(error)})
        return
    _answer(outgoing, {"ready": True})
    while True:
        message = requests.get()
        _answer(outgoing, TAKEN)
        try:
            request: Request = pickle.loads(message)  # noqa: S301 (from the trainer)
            found = calls[request.kind, request.call](request.completions, request.rows)
            _answer(outgoing, {"results": found})
        except BaseException as error:  # noqa: BLE001
            traceback.print_exc()
            _answer(outgoing, {"error": _said(error)})


def _read_all(fd: int, requests: queue.Queue[bytes]) -> None:
    """Read on beside the user's code, so that this process ends with the trainer, whatever that code does."""
    try:
        while True:
            requests.put(receive(fd, NEVER))
    except ClosedError:
        os._exit(0)


def _answer(fd: int, values: dict[str, Any]) -> None:
    send(fd, json.dumps(values).encode(), NEVER)


def _load(setup: Setup) -> dict[tuple[str, str], Callable[[list[str], list[Row]], list[Any]]]:
    pack = _load_pack(setup.pack) if setup.pack else None
    parse: Callable[[str, Row], Parsed] = pack.parse if pack else _parse_action
    calls: dict[tuple[str, str], Callable[[list[str], list[Row]], list[Any]]] = {
        ("parse", PARSE): lambda completions, rows: [
            _told_parsed(parse(completion, row)) for completion, row in zip(completions, rows, strict=True)
        ]
    }
    for name, function in setup.functions.items():
        if function:
            reward = load_function(function)
        else:
            assert pack is not None, "checked by check_rewards"
            reward = pack.module.reward
        calls["reward", name] = lambda completions, rows, reward=reward: _numbers(reward(completions, rows))  # type: ignore[misc]
    return calls


def _load_pack(pack: tuple[str, dict[str, Any]]) -> TaskPack:
    from tanren.common.task_packs import load_pack

    return load_pack(*pack)


def _parse_action(completion: str, row: Row) -> Parsed:
    from tanren.common.actions import judge_action
    from tanren.common.values import best_actions, values_of

    values = values_of(row)
    return judge_action(completion, len(values), best_actions(values))


def _told_parsed(parsed: Parsed) -> list[Any]:
    is_action = isinstance(parsed.value, int) and not isinstance(parsed.value, bool)
    return [parsed.verdict.value, parsed.value if is_action else None, parsed.error[:LONGEST_TEXT]]


def _numbers(found: Any) -> list[Any]:
    """Return each entry as a number, None, or in words what it is instead."""
    if isinstance(found, str | bytes | dict | set) or not hasattr(found, "__len__"):
        raise TypeError(f"it returned {_kind(found)}, expected a list with one number for each completion")
    return [_number(one) for one in found]


def _number(value: Any) -> float | dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, numbers.Real):
        return {"wrong": f"returned {_kind(value)}"}
    number = float(value)
    return number if math.isfinite(number) else {"wrong": f"returned {number}"}


def _kind(value: Any) -> str:
    text = repr(value)
    return f"a {type(value).__name__} ({text if len(text) <= 60 else text[:60] + '…'})"


def _said(error: BaseException) -> str:
    """Return an error with the last line of the user's file that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parent)
    places = [frame for frame in frames if not frame.filename.startswith((own, "<", sys.prefix, sys.base_prefix))]
    at = f" ({places[-1].filename}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {error}"[:LONGEST_TEXT] + at


if __name__ == "__main__":
    main(sys.argv[1:])
