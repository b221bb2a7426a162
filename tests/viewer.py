"""The viewer's server in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tanren.common.run import RunDirectory
from tanren.evaluate.view._server import ViewServer
from tanren.evaluate.view._workbench import Workbench

TOKEN = "a-token-of-the-test"


@contextmanager
def serving(run: RunDirectory) -> Iterator[int]:
    """Serve a run, and give the port."""
    server = ViewServer(Workbench(run), TOKEN, 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()
