"""The command: read the run, say where the page is, serve until Ctrl-C."""

from __future__ import annotations

import getpass
import secrets
import socket
import sys
import webbrowser
from pathlib import Path

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory

from ._server import HOST, ViewServer
from ._workbench import Workbench


def view_run(folder: Path, *, port: int, open_browser: bool) -> int:
    """Serve a run's items on the loopback interface until Ctrl-C; `port` 0 takes a free one.

    Raises UserError for a run without answers, and for a port that cannot be had.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: expected a number from 1 to 65535, or 0 for a free one")
    workbench = Workbench(RunDirectory(folder.expanduser()))
    token = secrets.token_urlsafe(24)
    try:
        server = ViewServer(workbench, token, port)
    except OSError as error:
        raise UserError(
            f"--port {port}: {error.strerror}; name another port, or leave --port out for a free one"
        ) from None
    with server:
        number = server.server_address[1]
        address = f"http://{HOST}:{number}/?token={token}"
        sys.stdout.write(
            f"{folder}: {workbench.told()}\n"
            f"{address}\n"
            f"from another machine, first: ssh -N -L {number}:{HOST}:{number} {getpass.getuser()}@{socket.gethostname()}\n"
            "Ctrl-C ends it\n"
        )
        sys.stdout.flush()
        if open_browser and not webbrowser.open(address):
            sys.stderr.write("--open: no browser could be started here; open the address yourself\n")
        server.serve_forever()
    return 0
