"""Datasets on the hub: read by the real library from a hub on this machine, always at the commit that was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

COMMIT, OTHER = "a" * 40, "b" * 40
ROWS = "".join(
    json.dumps({"prompt": f"q{n}", "completion": f"a{n}", "pack": None if n else "p"}) + "\n" for n in range(5)
)
CARD = """\
---
configs:
- config_name: one
  data_files:
  - {split: train, path: one/train.jsonl}
  - {split: test, path: one/test.jsonl}
- config_name: two
  data_files: two/x.jsonl
---
"""
FILES = {
    name: text.encode()
    for name, text in {"README.md": CARD, "one/train.jsonl": ROWS, "one/test.jsonl": ROWS, "two/x.jsonl": ROWS}.items()
}
ASKS = """
import dataclasses, json, sys
from tanren.common.data import Source, scan, settle
from tanren.common.errors import TanrenError
for line in sys.stdin:
    source = Source(**json.loads(line))
    try:
        answer = [settle(source).revision, [dataclasses.asdict(row) for row in scan(source)]]
    except TanrenError as error:
        answer = [type(error).__name__, str(error)]
    print("answer", json.dumps(answer), flush=True)
"""


class Answers(BaseHTTPRequestHandler):
    """What the library asks of a hub: about a dataset, for the list of its files, and for a file."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if found := re.fullmatch(r"/api/datasets/smith/steel(?:/revision/(.+))?", path):
            if found[1] in (None, "main", COMMIT):
                self._say({"id": "smith/steel", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
            else:
                self._fail("RevisionNotFound")
        elif found := re.fullmatch(rf"/api/datasets/smith/steel/tree/{COMMIT}/?(.*)", path):
            self._say([_entry(name) for name in FILES if name.startswith(found[1])])
        elif found := re.fullmatch(rf"/datasets/smith/steel/resolve/{COMMIT}/(.+)", path):
            data = FILES.get(found[1])
            self._fail("EntryNotFound") if data is None else self._send(200, data, ETag=f'"{_digest(data)}"')
        else:
            self._fail("RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._say([_entry(name) for name in FILES if name in unquote(asked)])

    def _say(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _fail(self, code: str) -> None:
        self._send(404, b"", **{"X-Error-Code": code})

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _entry(name: str) -> dict[str, Any]:
    return {"type": "file", "path": name, "oid": _digest(FILES[name]), "size": len(FILES[name])}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("hub")
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(home)}
    server.shutdown()


def _ask(variables: dict[str, str], *sources: dict[str, Any]) -> list[list[Any]]:
    """Read the sources in a process of its own: the library reads its variables once, when it is imported."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    told = "".join(json.dumps(source) + "\n" for source in sources)
    done = subprocess.run(
        [sys.executable, "-c", ASKS], env={**own, **variables}, input=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("answer ")]


def test_a_dataset_is_read_at_one_commit_with_config_and_split(hub: dict[str, str]) -> None:
    one = {"name": "smith/steel:one"}
    train, test, two, *faults = _ask(
        hub,
        one,
        {**one, "split": "test", "revision": "main"},
        {"name": "smith/steel:two", "revision": COMMIT},
        {"name": "smith/steel"},
        {"name": "smith/steel:three"},
        {**one, "split": "tset"},
        {**one, "revision": "v9"},
        {"name": "smith/iron"},
    )
    assert [answer[0] for answer in (train, test, two)] == [COMMIT] * 3
    assert [row["reference"] for row in train[1]] == [f"a{n}" for n in range(5)]
    assert [row["id"] for row in train[1]] == [f"smith/steel:one:{n}" for n in range(1, 6)]
    assert [row["metadata"] for row in train[1]] == [{"pack": "p"}, {}, {}, {}, {}]
    assert test[1] == train[1]
    assert len(two[1]) == 5
    assert [kind for kind, _ in faults] == ["UserError"] * 5
    for (_, message), told in zip(
        faults,
        (
            "smith/steel: several configs; name one as smith/steel:CONFIG, of one, two",
            "no config 'three'; name one as smith/steel:CONFIG, of one, two",
            "no split 'tset'; it has train, test",
            "no revision 'v9'",
            "no such file, and no such dataset on the hub",
        ),
        strict=True,
    ):
        assert told in message
    # What lies in the cache is read without the hub at the same commit, and is never taken for another one.
    answers = _ask({**hub, "HF_HUB_OFFLINE": "1"}, {**one, "revision": COMMIT}, {**one, "revision": OTHER}, one)
    assert answers[0] == train
    assert answers[1][0] == answers[2][0] == "UserError"
    assert f"commit {OTHER} is not in the cache" in answers[1][1]
    assert "HF_HUB_OFFLINE forbids to ask the hub which commit is meant" in answers[2][1]


def test_a_hub_that_cannot_be_reached_is_the_machines_fault(tmp_path: Path) -> None:
    (answer,) = _ask({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}, {"name": "smith/steel"})
    assert answer[0] == "MachineError"
    assert "the hub cannot be asked: " in answer[1]


def test_a_run_records_the_commit_of_a_hub_dataset(hub: dict[str, str]) -> None:
    code = (
        "from tanren.sft.config import SourceConfig\n"
        "from tanren.sft.rows._sources import named_sources\n"
        "sources = named_sources([SourceConfig(name='smith/steel:one'), SourceConfig(name='rows.jsonl')])\n"
        "print([source.commit for source in sources])"
    )
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    done = subprocess.run([sys.executable, "-c", code], env={**own, **hub}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"['{COMMIT}', None]", done.stderr
