"""A small real server with OpenAI's interface: it generates with a tiny model, and misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret"


@dataclass
class Behaviour:
    """What the server does besides answering."""

    served: tuple[str, ...] = ("builtin:tiny-qwen3",)
    faults: deque[str] = field(default_factory=deque)
    """What happens to the next completions, one each: a status, `cut`, `hang`, `no-json`, `no-usage`."""
    every: str = ""
    """What happens to every completion."""
    key: str = ""
    context: int | None = None
    lists: bool = True
    adds_tokens: int = 0
    reason: str = ""
    """A finish reason in place of the real one."""
    seconds: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serve on a free port of this machine; give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(behaviour, _generator()))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def _generator() -> Callable[[dict[str, Any]], tuple[str, str, int, int]]:
    """Return what really generates: text, finish reason and token counts of a request."""
    import torch

    from tanren.common.chat import render_prompt
    from tanren.common.models.decoding import stop_token_ids
    from tanren.common.models.tiny import tiny_model, tiny_tokenizer
    from tanren.common.task_contract import Message

    model, tokenizer, lock = tiny_model("tiny-qwen3", torch.float32).eval(), tiny_tokenizer(), threading.Lock()

    def generate(body: dict[str, Any]) -> tuple[str, str, int, int]:
        prompt = body.get("prompt")
        if prompt is None:
            prompt = render_prompt(tokenizer, [Message(**turn) for turn in body["messages"]])
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] if isinstance(prompt, str) else prompt
        drawn = {"do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"], "top_k": 0}
        with lock, torch.inference_mode():
            torch.manual_seed(body.get("seed", 0))
            output: Any = model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=body["max_tokens"],
                pad_token_id=tokenizer.pad_token_id,
                **(drawn if body["temperature"] else {"do_sample": False}),
            )
        new = output[0, len(ids) :].tolist()
        stopped = new[-1] in stop_token_ids(model, tokenizer)
        return str(tokenizer.decode(new, skip_special_tokens=True)), "stop" if stopped else "length", len(ids), len(new)

    return generate


def _handler(behaviour: Behaviour, generate: Callable[..., Any]) -> type[BaseHTTPRequestHandler]:
    count = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_GET(self) -> None:
            if self._let_in():
                entries = [{"id": name, "max_model_len": behaviour.context} for name in behaviour.served]
                self._send(*((200, {"data": entries}) if behaviour.lists else (404, {"detail": "Not Found"})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with count:
                behaviour.requests.append({"path": self.path, **body})
                behaviour.at_once += 1
                behaviour.most_at_once = max(behaviour.most_at_once, behaviour.at_once)
                fault = behaviour.faults.popleft() if behaviour.faults else behaviour.every
            time.sleep(behaviour.seconds)
            try:
                if self._let_in():
                    self._answer(body, fault)
            finally:
                with count:
                    behaviour.at_once -= 1

        def _answer(self, body: dict[str, Any], fault: str) -> None:
            if fault == "hang":
                time.sleep(3)
            elif fault == "cut":
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
            elif fault == "no-json":
                self._send(200, None, text="<html>busy</html>")
            elif fault:
                status, _, said = fault.partition(" ")
                self._send(int(status), {"error": {"message": said or "no"}}, {"retry-after": "0.05"})
            else:
                text, reason, before, new = generate(body)
                usage = {"prompt_tokens": before + behaviour.adds_tokens, "completion_tokens": new}
                chat = self.path.endswith("/chat/completions")
                written = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
                self._send(200, {"choices": [{**written, "finish_reason": behaviour.reason or reason}], "usage": usage})

        def _let_in(self) -> bool:
            given = self.headers.get("authorization", "")
            if behaviour.key and given != f"Bearer {behaviour.key}":
                self._send(401, {"error": {"message": f"Incorrect API key provided: {given.removeprefix('Bearer ')}"}})
                return False
            return True

        def _send(self, status: int, value: Any, headers: dict[str, str] | None = None, text: str = "") -> None:
            data = (text or json.dumps(value)).encode()
            self.send_response(status)
            for name, said in {**(headers or {}), "content-length": str(len(data))}.items():
                self.send_header(name, said)
            with suppress(ConnectionError):  # who asked may be gone by now
                self.end_headers()
                self.wfile.write(data)

    return Handler
