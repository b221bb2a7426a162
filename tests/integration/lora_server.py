"""A server that answers as vLLM 0.25 does with adapters loaded while it runs, and really generates, with a tiny model on the CPU.

    python -m tests.integration.lora_server MODEL_NAME PORT_FILE [FORGET_AFTER]

With FORGET_AFTER it ends itself without a word after so many rounds of completions, as a killed server does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from tanren.common.attention.packed import registered_name
from tanren.common.completions import Sampling
from tanren.common.models.merging import load_adapter
from tanren.common.models.tiny import tiny_model
from tanren.grpo.following import trainer_scores
from tanren.grpo.transformers_engine import TransformersEngine

LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    adapters: dict[str, Any] = {}
    name = ""
    left = 10**9

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """List what is served."""
        base = {"id": self.name, "object": "model", "parent": None, "max_model_len": 4096}
        self._answer(200, {"data": [base, *({"id": one, "parent": self.name} for one in self.adapters)]})

    def do_POST(self) -> None:
        """Load or unload an adapter, or complete a prompt."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            if self.path == "/v1/load_lora_adapter":
                self._load(body)
            elif self.path == "/v1/unload_lora_adapter":
                if self.adapters.pop(body["lora_name"], None) is None:
                    self._answer(
                        404, {"error": {"message": f"The lora adapter '{body['lora_name']}' cannot be found."}}
                    )
                else:
                    self._answer(200, "Success")
            elif body["model"] not in self.adapters:
                self._answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            else:
                self._complete(body)

    def _load(self, body: dict[str, Any]) -> None:
        if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
            self._answer(404, {"error": {"message": f"No adapter found for {body['lora_path']}"}})
            return
        model = tiny_model(self.name.removeprefix("builtin:"), torch.float32)
        model.set_attn_implementation(registered_name("sdpa"))
        adapted = load_adapter(model, Path(body["lora_path"]))
        adapted.eval()
        self.adapters[body["lora_name"]] = adapted
        self._answer(200, "Success: LoRA adapter added successfully.")

    def _complete(self, body: dict[str, Any]) -> None:
        model, prompt = self.adapters[body["model"]], body["prompt"]
        if body.get("prompt_logprobs") is not None:
            scores = trainer_scores(model, prompt).tolist()
            entries = [{str(token): {"logprob": one}} for token, one in zip(prompt[1:], scores, strict=True)]
            self._answer(200, {"choices": [{"index": 0, "text": "", "prompt_logprobs": [None, *entries]}]})
            return
        type(self).left -= 1
        if self.left < 0:
            os._exit(9)
        engine = TransformersEngine(model, batch_size=64, padding=0, seed=body["seed"])
        sampling = Sampling(body["max_tokens"], body["temperature"], stop_token_ids=tuple(body["stop_token_ids"]))
        choices = [
            {
                "index": number,
                "text": "",
                "token_ids": list(one.token_ids),
                "logprobs": {"token_logprobs": list(one.log_probs)},
                "finish_reason": one.finish_reason,
            }
            for number, one in enumerate(engine.generate([prompt], body["n"], sampling)[0])
        ]
        self._answer(200, {"choices": choices[::-1]})  # in any order: each has its index

    def _answer(self, status: int, answer: Any) -> None:
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main(name: str, port_file: str, rounds: str = str(10**9)) -> None:
    """Serve until killed; the port that was taken is written to a file, and taken again where it is there."""
    torch.set_num_threads(1)
    Handler.name, Handler.left = name, int(rounds)
    file = Path(port_file)
    port = int(file.read_text(encoding="utf-8")) if file.exists() else 0
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    aside = file.with_suffix(".new")
    aside.write_text(str(server.server_port), encoding="utf-8")
    aside.rename(file)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
