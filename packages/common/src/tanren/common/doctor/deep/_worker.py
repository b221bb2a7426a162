"""The child: runs the proofs that come in over a socket, one JSON line each, and answers each with one line.

Answers have a way of their own, so that whatever a library prints stays what it is: text for the person who asks why.
After a fault the process is given up: a CUDA error leaves a context in which everything fails.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
import traceback
from dataclasses import asdict
from typing import Any

from tanren.common.doctor.deep._probe import ProbeResult


def main(descriptor: int) -> None:
    """Answer the proofs that are asked on the socket with this file descriptor, until it closes or one fails."""
    with socket.socket(fileno=descriptor) as channel:
        channel.set_inheritable(False)  # what a proof starts must not keep it open
        with channel.makefile("r", encoding="utf-8") as asked, channel.makefile("w", encoding="utf-8") as answers:
            for line in asked:
                answer = _answer(json.loads(line))
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
                if "fault" in answer:
                    return


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, _, name = request["function"].partition(":")
    try:
        result: ProbeResult = getattr(importlib.import_module(module), name)(**request["arguments"])
    except Exception as fault:  # noqa: BLE001 (whatever a proof raises is its answer)
        traceback.print_exc()
        return {"fault": f"{type(fault).__name__}: {fault}"}
    return asdict(result)


if __name__ == "__main__":
    main(int(sys.argv[1]))
