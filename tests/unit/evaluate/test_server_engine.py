"""A real server that really generates: what it answers is what transformers answers, and what goes wrong is told."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .server import KEY, Behaviour, serving

Evaluate = Callable[..., int]
Served = tuple[Behaviour, list[str]]


@pytest.fixture
def served(work: Path) -> Iterator[Served]:
    """A server, its behaviour to be changed, and the flags with which it is asked; its patience is short."""
    behaviour = Behaviour()
    recipe = work / "quick.toml"
    lines = [line for line in recipe.read_text(encoding="utf-8").splitlines() if not line.startswith(("d", "t", "b"))]
    recipe.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with serving(behaviour) as address:
        yield behaviour, [
            "quick.toml", "--generation.engine", "server", "--generation.server", address,
            "--requests.timeout-s", "1", "--requests.total-s", "10", "--output.run-dir", "run",
        ]  # fmt: skip


def _predictions(run: str, candidate: str = "base") -> list[dict[str, Any]]:
    path = Path(run, "evaluation", candidate, "predictions.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _local(evaluate: Evaluate) -> list[dict[str, Any]]:
    assert evaluate("quick.toml", "--model.device", "cpu", "--model.dtype", "float32", "--output.run-dir", "local") == 0
    return _predictions("local")


def test_a_server_is_given_the_tokens_of_training_and_answers_as_the_model_does_here(
    served: Served, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour, flags = served
    behaviour.faults = deque(["429", "cut", "503 starting", "no-json", "hang"])  # each of the first is asked again
    behaviour.seconds = 0.05
    assert evaluate(*flags, "--requests.parallel", "3") == 0
    assert _predictions("run") == _local(evaluate)
    assert behaviour.most_at_once == 3
    assert {(one["path"], one["model"], type(one["prompt"]), "seed" in one) for one in behaviour.requests} == {
        ("/v1/completions", "builtin:tiny-qwen3", list, False)
    }
    environment = json.loads(Path("run/environment.json").read_text(encoding="utf-8"))
    assert environment["server"]["served"] == ["builtin:tiny-qwen3"]
    capsys.readouterr()
    assert evaluate("compare", "run", "local", "--json") == 2  # the same predictions: nothing to compare
    assert "1 candidate to compare" in capsys.readouterr().err


def test_text_and_served_names_are_choices_and_added_tokens_are_told(
    served: Served, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour, flags = served
    behaviour.served = ("mine", "base-model")
    behaviour.adds_tokens, behaviour.reason = 1, "content_filter"
    flags = [*flags, "--requests.api", "text", "--requests.model", "base-model", "--candidate", "x=mine"]
    assert evaluate(*flags) == 0
    told = capsys.readouterr().err
    assert (
        "base-model: the server counted other prompt tokens than our tokenizer for 4 completions (by up to +1)" in told
    )
    assert "x: 4 answers ended by 'content_filter'" in told
    assert {one["model"] for one in behaviour.requests} == {"mine", "base-model"}
    assert all(isinstance(one["prompt"], str) for one in behaviour.requests)
    found, local = _predictions("run", "x"), _local(evaluate)
    assert [one["completion"] for one in found] == [one["completion"] for one in local]


def test_chat_is_another_prompt_and_is_compared_only_when_asked(
    served: Served, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour, flags = served
    assert evaluate(*flags, "--requests.api", "chat") == 0
    assert all(one["prompt_hash"].startswith("chat-") for one in _predictions("run"))
    assert behaviour.requests[0]["messages"][0]["role"] == "user"
    local = _local(evaluate)
    assert [one["completion"] for one in _predictions("run")] == [one["completion"] for one in local]
    capsys.readouterr()
    assert evaluate("compare", "run", "local") == 2
    assert "local/base read other prompts than run/base for 4 of 4 items" in capsys.readouterr().err
    assert evaluate("compare", "run", "local", "--allow-other-prompts", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ranking"]["pairs"][0]["value"] == 0
    assert "read other prompts" in err


def test_each_sample_has_a_seed_of_its_own(served: Served, evaluate: Evaluate) -> None:
    behaviour, flags = served
    assert evaluate(*flags, "--generation.samples", "3", "--generation.temperature", "1.5") == 0
    assert len({one["seed"] for one in behaviour.requests}) == 12
    assert len({one["completion"] for one in _predictions("run")}) > 8


def test_the_key_comes_from_a_variable_and_is_written_nowhere(
    served: Served, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, flags = served
    behaviour.key = KEY
    assert evaluate(*flags) == 2
    assert "does not let us in (401)" in capsys.readouterr().err
    flags += ["--requests.key-variable", "MY_KEY"]
    assert evaluate(*flags) == 2
    assert "requests.key_variable = 'MY_KEY': that environment variable is not set" in capsys.readouterr().err
    monkeypatch.setenv("MY_KEY", KEY + "-old")
    assert evaluate(*flags) == 2
    told = capsys.readouterr().err
    assert "Incorrect API key provided: ***; the key in MY_KEY is not the right one" in told
    monkeypatch.setenv("MY_KEY", KEY)
    assert evaluate(*flags) == 0
    said = told + capsys.readouterr().err
    written = [path.read_text(encoding="utf-8") for path in Path("run").rglob("*") if path.is_file()]
    assert not any(KEY in text for text in [*written, said])


@pytest.mark.parametrize(
    ("changes", "more", "code", "told"),
    [
        ({"served": ("a", "b")}, (), 2, "does not serve 'builtin:tiny-qwen3'; it serves a, b: set requests.model"),
        ({"context": 20}, (), 2, "tokens and 6 new ones do not fit builtin:tiny-qwen3"),
        ({"every": "400 This model's maximum context length is 9 tokens"}, (), 2, "maximum context length is 9 tokens; lower"),
        ({"every": "404 no such model", "lists": False}, (), 2, "has no model 'builtin:tiny-qwen3', or no such path (404)"),
        ({"every": "422 odd"}, (), 2, "refuses the request (422): odd"),
        ({"every": "500 broken"}, ("--requests.total-s", "1"), 3, "total_s = 1 s, in"),
        ({"every": "hang"}, ("--requests.total-s", "1"), 3, "no answer within 1 s (requests.timeout_s)"),
        ({"adds_tokens": -3}, (), 2, "prompt tokens were sent, and the server at"),
        ({}, ("--generation.server", "http://127.0.0.1:9/v1"), 3, "no server at http://127.0.0.1:9/v1"),
        ({}, ("--generation.server", "http://me:pw@127.0.0.1/v1"), 2, "holds a user, a password or a query"),
        ({}, ("--requests.total-s", "0.5"), 2, "requests.total_s = 0.5 is less than what one attempt may take"),
    ],
)  # fmt: skip
def test_what_goes_wrong_at_a_server_is_told_in_one_message(
    served: Served,
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    more: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    behaviour, flags = served
    for name, value in changes.items():
        setattr(behaviour, name, value)
    assert evaluate(*flags, *more) == code
    assert told in capsys.readouterr().err


def test_what_a_server_had_answered_before_it_broke_is_not_asked_again(
    served: Served, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour, flags = served
    behaviour.faults, behaviour.every = deque(["", ""]), "422 gone"
    assert evaluate(*flags, "--requests.parallel", "1") == 2
    assert "what was generated is kept; to go on: the same command with --resume run" in capsys.readouterr().err
    behaviour.every = ""
    before = len(behaviour.requests)
    assert evaluate(*flags, "--resume", "run") == 0
    assert "2 predictions of this run are there already, 2 are missing" in capsys.readouterr().err
    assert len(behaviour.requests) == before + 2
    assert _predictions("run") == _local(evaluate)
