"""The viewer's server by plain HTTP: who may ask what, and what saving an edited answer does."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory
from tanren.evaluate.answer_commands import score_command, submit_command
from tanren.evaluate.predictions import read_predictions
from tanren.evaluate.view._server import MAX_BODY
from tanren.evaluate.view._workbench import Workbench
from tests.viewer import TOKEN, serving


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks as a browser with the cookie does; `headers` replace or (None) remove what it sends."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> Reply:
        host = f"127.0.0.1:{self.port}"
        sent = {"Host": host, "Cookie": f"tanren_view_{self.port}={TOKEN}"}
        if method == "POST":
            sent |= {"Origin": f"http://{host}", "Content-Type": "application/json"}
        for name, value in headers.items():
            sent.pop(name.replace("_", "-"), None)
            if value is not None:
                sent[name.replace("_", "-")] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        if method == "POST":
            sent.setdefault("Content-Length", str(len(data)))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        reply = Reply(answer.status, answer.headers, answer.read())
        connection.close()
        return reply

    def get(self, path: str, **headers: str | None) -> Reply:
        return self.ask("GET", path, **headers)

    def save(self, text: str, seen: str, *, identity: str, candidate: str = "trained", **headers: str | None) -> Reply:
        body = {"candidate": candidate, "identity": identity, "sample": 0, "text": text, "seen": seen}
        return self.ask("POST", "/api/answer", body, **headers)


@pytest.fixture
def client(made_run: RunDirectory) -> Iterator[Client]:
    with serving(made_run) as port:
        yield Client(port)


def item_of(client: Client, index: int, candidate: str = "trained") -> tuple[str, str]:
    """Return id and answer of an item."""
    data = client.get("/api/items").value
    item = data["items"][index]
    return item["id"], item["answers"][data["candidates"].index(candidate)][0]["text"]


def test_it_listens_on_the_loopback_interface_alone(client: Client) -> None:
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    others = [str(address) for address in own if not str(address).startswith("127.")]
    for address in ["127.0.0.2", *others]:
        with pytest.raises(OSError, match=r"refused|unreachable|assign|timed out"):
            socket.create_connection((address, client.port), timeout=5).close()


@pytest.mark.parametrize("path", ["/", "/page.css", "/items.js", "/api/items", "/api/shown?id=x", "/nothing"])
def test_without_the_token_nothing_is_served(client: Client, path: str) -> None:
    for cookie in (None, "", f"tanren_view_{client.port}=wrong", f"tanren_view_{client.port}=", "broken;;=;"):
        reply = client.get(path, Cookie=cookie)
        assert (reply.status, b"token" in reply.body) == (403, True)
    assert client.get(f"{path}{'&' if '?' in path else '?'}token=wrong", Cookie=None).status == 403


def test_the_address_with_the_token_gives_a_cookie_that_scripts_and_other_sites_do_not_get(client: Client) -> None:
    reply = client.get(f"/?token={TOKEN}", Cookie=None)
    home = re.findall(r'content="0;url=(/[\w-]{16}/)"', reply.body.decode())[0]
    assert reply.status == 200
    cookie = reply.headers["Set-Cookie"]
    assert cookie.startswith(f"tanren_view_{client.port}={TOKEN}; ")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert cookie.endswith(f"; Path={home}")  # else every port of this host would get it
    for name in ("", "page.css", "api/items"):
        assert client.get(f"{home}{name}", Cookie=cookie.split(";")[0]).status == 200
    assert client.get("/api/items", Cookie=None, X_Tanren_Token=TOKEN).status == 200


@pytest.mark.parametrize("host", ["example.invalid", "127.0.0.1.example.invalid", "127.0.0.1@evil", "", "[::1", None])
def test_a_name_that_was_made_to_point_here_is_refused(client: Client, host: str | None) -> None:
    for path in ("/api/items", f"/?token={TOKEN}"):
        assert client.get(path, Host=host).status in (400, 403)
    identity, text = item_of(client, 0)
    assert client.save("{}", text, identity=identity, Host=host, Origin=f"http://{host}").status in (400, 403)


def test_a_tunnel_may_end_at_another_port_and_name(client: Client) -> None:
    identity, text = item_of(client, 0)
    for host in ("localhost:9000", "127.0.0.1:9000"):
        assert client.get("/api/items", Host=host).status == 200
        reply = client.save(text, text, identity=identity, Host=host, Origin=f"http://{host}")
        assert reply.status == 200


@pytest.mark.parametrize("origin", [None, "null", "http://example.invalid", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_another_site_writes_nothing(client: Client, made_run: RunDirectory, origin: str | None) -> None:
    identity, text = item_of(client, 0)
    assert client.save("{}", text, identity=identity, Origin=origin).status == 403
    assert client.save("{}", text, identity=identity, Sec_Fetch_Site="cross-site").status == 403
    assert client.save("{}", text, identity=identity, Content_Type="text/plain").status == 415
    assert client.save("{}", text, identity=identity, Cookie=None).status == 403
    for path in ("/", "/api/items", f"/api/items?token={TOKEN}"):
        assert client.get(path, Sec_Fetch_Site="same-site").status == 403
    assert not list(made_run.path.glob("evaluation/*/edited.jsonl"))


def test_every_answer_forbids_scripts_that_are_not_the_viewers(client: Client) -> None:
    for path in ("/", "/api/items", "/nothing", "/items.js"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Access-Control-Allow-Origin"] is None
        assert "Python" not in headers["Server"]
    page = client.get("/").body.decode()
    assert page.count("<script") == page.count('<script src="') == 2
    assert "style=" not in page
    assert "onerror" not in page


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/config.toml", "/config.toml", "/evaluation/tasks.jsonl"]
)
def test_no_file_is_served_that_is_not_the_pages_own(client: Client, path: str) -> None:
    assert client.get(path).status == 404


def test_other_methods_and_broken_requests_change_nothing(client: Client, made_run: RunDirectory) -> None:
    identity, text = item_of(client, 0)
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        assert client.ask(method, "/api/answer").status == 501
    bodies: list[Any] = [b"", b"{", b"[]", b"[" * 100_000, {"candidate": "trained"}, {"candidate": 1}]
    whole = {"candidate": "trained", "identity": identity, "sample": 0, "text": "x", "seen": text}
    bodies += [whole | {"text": "\ud800"}, whole | {"sample": "0"}, whole | {"text": None}]
    for body in bodies:
        assert client.ask("POST", "/api/answer", body).status == 400
    for wrong in ({"candidate": "nobody"}, {"candidate": "../base"}, {"identity": "none"}, {"sample": 7}):
        assert client.ask("POST", "/api/answer", whole | wrong).status == 404
    assert client.ask("POST", "/api/answer", b"", Content_Length=str(MAX_BODY + 1)).status == 413
    assert client.ask("POST", "/api/answer", b"", Content_Length="-1").status == 413
    assert client.get("/api/shown?id=none").status == 404
    assert not list(made_run.path.glob("evaluation/*/edited.jsonl"))


def test_an_edit_is_a_file_of_its_own_judged_at_once(
    client: Client, made_run: RunDirectory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    predictions = made_run.evaluation / "trained" / "predictions.jsonl"
    before = predictions.read_bytes()
    identity, text = item_of(client, 3)  # the first that was cut
    gold = client.get("/api/items").value["items"][3]["gold"]
    reply = client.save(gold, text, identity=identity)
    assert reply.status == 200
    assert reply.value["candidates"] == ["base", "trained", "trained, edited"]
    assert reply.value["answers"]["trained"][0]["verdict"] != "correct"
    assert reply.value["answers"]["trained, edited"][0]["verdict"] == "correct"
    assert reply.value["scores"][2]["correct"].startswith("80 ")
    assert predictions.read_bytes() == before
    edited = predictions.with_name("edited.jsonl")
    [other] = [one for one in read_predictions(edited) if one not in read_predictions(predictions)]
    assert (other.id, other.completion, other.finish_reason, other.completion_tokens) == (identity, gold, "stop", 0)

    assert score_command("structured", edited, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["by_group"]["all"]["correct"]["count"] == 16
    submission = tmp_path / "submission.json"
    assert submit_command("structured", edited, made_run.evaluation / "tasks.jsonl", submission) == 0
    entries = {one["task_id"]: one["generation"] for one in json.loads(submission.read_text(encoding="utf-8"))}
    assert entries[identity] == gold


def test_the_answer_as_it_was_takes_the_edit_back(client: Client, made_run: RunDirectory) -> None:
    one, text = item_of(client, 3)
    two, other = item_of(client, 7)
    assert client.save("{}", text, identity=one).status == 200
    assert client.save("[]", other, identity=two).status == 200
    edited = made_run.evaluation / "trained" / "edited.jsonl"
    assert client.save(text, "{}", identity=one).status == 200
    assert [item.completion for item in read_predictions(edited)].count("[]") == 1
    assert client.save(other, "[]", identity=two).value["candidates"] == ["base", "trained"]
    assert not edited.exists()


def test_what_was_edited_meanwhile_is_told_and_kept(client: Client, made_run: RunDirectory) -> None:
    identity, text = item_of(client, 3)
    with serving(made_run) as port:  # as another process would
        assert Client(port).save("theirs", text, identity=identity).status == 200
    reply = client.save("ours", text, identity=identity)
    assert (reply.status, reply.value["now"]) == (409, "theirs")
    assert item_of(client, 3, "trained, edited")[1] == "theirs"
    assert client.save("ours", "theirs", identity=identity).status == 200
    assert item_of(client, 3, "trained, edited")[1] == "ours"


def test_edits_at_the_same_moment_are_all_kept(client: Client) -> None:
    items = [item_of(client, index) for index in range(12)]
    replies: list[Reply] = []

    def save(identity: str, text: str) -> None:
        replies.append(client.save(f"edit of {identity}", text, identity=identity))

    threads = [threading.Thread(target=save, args=item) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 12
    assert [item_of(client, index, "trained, edited")[1] for index in range(12)] == [
        f"edit of {one}" for one, _ in items
    ]


def test_a_folder_that_cannot_be_written_is_told(client: Client, made_run: RunDirectory) -> None:
    identity, text = item_of(client, 0)
    (made_run.evaluation / "trained" / "edited.jsonl").mkdir()
    reply = client.save("{}", text, identity=identity)
    assert reply.status == 500
    assert "edited.jsonl" in reply.value["error"]


def test_edits_of_other_predictions_are_refused(made_run: RunDirectory) -> None:
    predictions = made_run.evaluation / "trained" / "predictions.jsonl"
    lines = predictions.read_text(encoding="utf-8").replace("0" * 16, "1" * 16)
    predictions.with_name("edited.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=r"edited\.jsonl answers other items or prompts"):
        Workbench(made_run)


def test_a_run_that_still_goes_on_shows_the_candidates_that_are_done(made_run: RunDirectory) -> None:
    made_run.summary.unlink()
    (made_run.evaluation / "trained" / "predictions.jsonl").rename(
        made_run.evaluation / "trained" / "predictions.partial.jsonl"
    )
    with serving(made_run) as port:
        assert Client(port).get("/api/items").value["candidates"] == ["base"]


def test_samples_are_edited_one_by_one(made: Callable[..., RunDirectory]) -> None:
    run = made({"base": [["right"], ["cut"]]})
    with serving(run) as port:
        client = Client(port)
        item = client.get("/api/items").value["items"][0]
        texts = [answer["text"] for answer in item["answers"][0]]
        body = {"candidate": "base", "identity": item["id"], "sample": 1, "text": texts[0], "seen": texts[1]}
        answers = client.ask("POST", "/api/answer", body).value["answers"]["base, edited"]
    assert [answer["verdict"] for answer in answers] == ["correct", "correct"]
    edited = read_predictions(run.evaluation / "base" / "edited.jsonl")
    assert [one.sample for one in edited[:2]] == [0, 1]
    assert len(edited) == 40


def test_long_answers_are_packed_for_a_slow_line(client: Client) -> None:
    packed = client.get("/api/items", Accept_Encoding="gzip, deflate")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == client.get("/api/items").body


def test_a_browser_that_goes_away_leaves_no_traceback(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", client.port)) as line:
            line.sendall(f"GET /api/items HTTP/1.1\r\nHost: localhost\r\nX-Tanren-Token: {TOKEN}\r\n\r\n".encode())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
    assert client.get("/").status == 200
    assert "Traceback" not in capfd.readouterr().err
