"""The doctor on a recipe: is its model there, cached or reachable, and its data, and its task pack?"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tanren.common.doctor import Finding, Subject, Verdict
from tanren.common.doctor import _recipe as recipe_check
from tanren.common.doctor._ask_hub import is_complete, weights_bytes
from tanren.common.doctor._disk import GIB, Room
from tanren.common.doctor._recipe_file import Recipe, read_recipe
from tanren.common.doctor._resources import Resources
from tanren.common.errors import UserError

from .conftest import by_name

SECRET = "hf_aVerySecretToken"
MODEL = "smith/anvil"
FILES = {"config.json": 700, "model-00001-of-00002.safetensors": 3 * GIB, "model-00002-of-00002.safetensors": GIB}
ROOM = Room(1, "/", 500.0, 1000.0, None)


class Hub(ThreadingHTTPServer):
    """A hub on this machine: what it answers, and whom it was asked by."""

    gated = False
    status = 200
    error = ""
    files = FILES

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    """The two questions that are asked of a hub: about a model, and for the head of one of its files."""

    server: Hub

    def do_GET(self) -> None:
        """About a model."""
        self._note()
        if self.server.status != 200:
            self._fail(self.server.status, self.server.error)
            return
        siblings = [{"rfilename": name, "size": size} for name, size in self.server.files.items()]
        body: dict[str, Any] = {"id": MODEL, "sha": "4b0c", "gated": "manual" if self.server.gated else False}
        text = json.dumps({**body, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_HEAD(self) -> None:
        """For a file."""
        self._note()
        if self.server.gated and self.headers.get("Authorization") != f"Bearer {SECRET}":
            self._fail(401, "GatedRepo")
            return
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "4b0c")
        self.send_header("Content-Length", "700")
        self.end_headers()

    def _note(self) -> None:
        self.server.asked.append((self.command, self.path))

    def _fail(self, status: int, error: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Keep quiet."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def check(cpu_subject: Subject, tmp_path: Path, hub: Hub) -> Callable[..., dict[str, Finding]]:
    """Return a check of a recipe on a machine with an empty cache, with the hub above."""
    kept = {name: value for name, value in cpu_subject.variables.items() if not name.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, "NO_PROXY": "127.0.0.1"}
    subject = replace(cpu_subject, resources=Resources(memory_gib=64.0, available_gib=60.0))

    def run(
        model: str | None = None,
        revision: str | None = None,
        data: Path | None = None,
        task: str | None = None,
        room: Room = ROOM,
        resources: Resources = subject.resources,
        **variables: str,
    ) -> dict[str, Finding]:
        recipe = Recipe(Path("recipe.toml"), model, revision, data, task)
        judged = replace(subject, recipe=recipe, resources=resources, variables={**kept, **variables})
        return by_name(recipe_check.check_recipe(judged, lambda _: room))

    return run


Check = Callable[..., dict[str, Finding]]


def cached(home: Path, files: dict[str, int], commit: str = "4b0c") -> None:
    """Write what the library leaves of a downloaded model."""
    folder = home / "hub" / f"models--{MODEL.replace('/', '--')}"
    (folder / "snapshots" / commit).mkdir(parents=True)
    for name, size in files.items():
        (folder / "snapshots" / commit / name).write_bytes(b"{}" if name == "config.json" else b"0" * size)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit, encoding="utf-8")


def test_a_model_that_the_hub_has_is_ok_with_its_size_and_what_it_takes(check: Check, hub: Hub) -> None:
    rows = check(MODEL)
    assert {what: row.verdict for what, row in rows.items()} == {
        "model": Verdict.OK,
        "room for the model": Verdict.OK,
        "memory for the model": Verdict.OK,
    }
    assert rows["model"].found == f"{MODEL}: reachable at {hub.address}, 4.00 GiB of weights"
    assert rows["room for the model"].needed == "5.0 GiB"


def test_room_and_memory_are_judged_by_the_models_own_size(check: Check) -> None:
    rows = check(MODEL, room=replace(ROOM, free_gib=4.5), resources=Resources(memory_gib=8.0, available_gib=3.0))
    assert rows["room for the model"].verdict is Verdict.REFUSED
    assert rows["memory for the model"].verdict is Verdict.WARNING
    rows = check(MODEL, resources=Resources(memory_gib=3.5, available_gib=3.0))
    assert rows["memory for the model"].verdict is Verdict.REFUSED


def test_a_cached_model_asks_nobody(check: Check, tmp_path: Path, hub: Hub) -> None:
    cached(tmp_path / "hf", {"config.json": 2, "model.safetensors": 4096})
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        rows = check(MODEL, **variables)
        assert (rows["model"].verdict, rows["model"].found) == (
            Verdict.OK,
            f"{MODEL}: cached, 0.00 GiB of weights",
        )
    assert hub.asked == []


def test_a_model_that_is_cached_in_part_is_asked_for(check: Check, tmp_path: Path, hub: Hub) -> None:
    cached(tmp_path / "hf", {"config.json": 2})
    assert "reachable" in check(MODEL)["model"].found
    assert hub.asked


def test_offline_a_model_that_is_not_cached_is_refused_with_the_command_that_fetches_it(check: Check, hub: Hub) -> None:
    finding = check(MODEL, "v2", HF_HUB_OFFLINE="1")["model"]
    assert finding.verdict is Verdict.REFUSED
    assert "HF_HUB_OFFLINE" in finding.found
    assert finding.fix.endswith(f"hf download {MODEL} --revision v2")
    assert hub.asked == []


def test_a_gated_model_needs_a_token_that_opens_it(check: Check, hub: Hub) -> None:
    hub.gated = True
    closed = check(MODEL)["model"]
    assert (closed.verdict, "gated" in closed.found) == (Verdict.REFUSED, True)
    assert f"{hub.address}/{MODEL}" in closed.fix
    assert check(MODEL, HF_TOKEN=SECRET)["model"].verdict is Verdict.OK
    assert "aVery" not in repr(check(MODEL, HF_TOKEN=f"{SECRET}x"))


@pytest.mark.parametrize(
    ("status", "error", "found", "verdict"),
    [
        (404, "RepoNotFound", "has no such model", Verdict.REFUSED),
        (401, "RepoNotFound", "has no such model", Verdict.REFUSED),
        (404, "RevisionNotFound", "there is no such revision", Verdict.REFUSED),
        (503, "", "answered with status 503", Verdict.UNKNOWN),
        (429, "", "answered with status 429", Verdict.UNKNOWN),
    ],
)
def test_each_refusal_of_the_hub_is_told_apart(
    check: Check, hub: Hub, status: int, error: str, found: str, verdict: Verdict
) -> None:
    hub.status, hub.error = status, error
    finding = check(MODEL, "v2")["model"]
    assert finding.verdict is verdict
    assert finding.found.startswith(f"{MODEL} at revision v2: ")
    assert found in finding.found


def test_a_repository_without_weights_is_refused(check: Check, hub: Hub) -> None:
    hub.files = {"config.json": 700, "anvil.gguf": GIB}
    assert check(MODEL)["model"].verdict is Verdict.REFUSED


def test_a_hub_that_is_not_there_is_refused_with_the_reason(check: Check) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    finding = check(MODEL, HF_ENDPOINT=address)["model"]
    assert finding.verdict is Verdict.REFUSED
    assert f"{address} cannot be reached" in finding.found
    assert "refused" in finding.found


def test_a_hub_that_does_not_answer_is_waited_for_a_short_time(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_check, "REACH", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        finding = check(MODEL, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")["model"]
    assert finding.verdict is Verdict.REFUSED
    assert "cannot be reached" in finding.found


def test_a_token_that_cannot_be_sent_is_not_shown_either(check: Check) -> None:
    rows = check(MODEL, HF_TOKEN="hf_aVery\x0bSecret")
    assert rows["model"].verdict is Verdict.REFUSED
    assert "aVery" not in repr(rows)
    assert "Secret" not in repr(rows)


def test_models_that_come_with_us_and_folders_ask_nobody(check: Check, tmp_path: Path, hub: Hub) -> None:
    assert check("builtin:tiny-qwen3")["model"].verdict is Verdict.OK
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert "weights are not all there" in check(str(folder))["model"].found
    (folder / "model.safetensors").write_bytes(b"0" * 100)
    rows = check(str(folder))
    assert {row.verdict for row in rows.values()} == {Verdict.OK}
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("builtin:tiny-qwen", "did you mean"), ("./nowhere", "no such folder"), ("justaname", "not a hub id")],
)
def test_a_name_that_can_be_no_model_is_refused_in_the_trainers_words(check: Check, name: str, words: str) -> None:
    finding = check(name)["model"]
    assert finding.verdict is Verdict.REFUSED
    assert words in finding.found


def test_shards_are_counted_by_the_index(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "model-1.safetensors").write_bytes(b"0")
    assert not is_complete(tmp_path)
    (tmp_path / "model-2.safetensors").symlink_to(tmp_path / "gone")
    assert not is_complete(tmp_path)
    (tmp_path / "gone").write_bytes(b"0")
    assert is_complete(tmp_path)
    assert weights_bytes({"pytorch_model.bin": 5, "model.safetensors": 7, "consolidated.safetensors": 9}) == 7
    assert weights_bytes({"pytorch_model-00001.bin": 5, "pytorch_model-00002.bin": 6}) == 11


def test_data_and_task_pack_are_looked_for(check: Check, tmp_path: Path, pack_folder: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    assert "no such file" in check(data=rows)["data"].found
    rows.write_text("", encoding="utf-8")
    assert check(data=rows)["data"].verdict is Verdict.REFUSED
    rows.write_text("{}\n", encoding="utf-8")
    assert check(data=rows)["data"].verdict is Verdict.OK
    assert check(data=tmp_path)["data"].found.endswith("a folder")
    assert check(task="structured")["task pack"].verdict is Verdict.OK
    assert "did you mean 'structured'" in check(task="structred")["task pack"].found
    assert check(task=str(pack_folder))["task pack"].verdict is Verdict.OK
    (pack_folder / "task.py").unlink()
    assert check(task=str(pack_folder))["task pack"].verdict is Verdict.REFUSED


def test_a_recipe_is_read_for_its_names_alone(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[model]\nname = "a/b"\nunheard_of = 3\n[data]\nfile = "rows.jsonl"\n', encoding="utf-8")
    assert read_recipe(path) == Recipe(path, "a/b", None, Path("rows.jsonl"), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [", "is not valid TOML"),
        ("[model]\nname = 3\n", "model.name is 3: expected model.name to be text"),
        ("model = 3\n", "model is 3"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_the_users_mistake(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_recipe(path)
