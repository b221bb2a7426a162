"""train-grpo with a server that generates: a process of its own, which is given the adapter of each step, and may die."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tanren.common.command import run_command
from tanren.evaluate.cli import _main as evaluate
from tanren.evaluate.predictions import read_predictions
from tanren.grpo.cli import _main
from tests.integration.grpo_runs import lines_of, numbers_of

ROOT = Path(__file__).resolve().parents[2]
Serve = Callable[..., "subprocess.Popen[bytes]"]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("letters")]


EVALUATE = """
name = "again"

[model]
name = "builtin:tiny-qwen3"
dtype = "float32"
threads = 1

[task]
name = "./letters"

[generation]
max_new_tokens = 6
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts the server; the port is in the file `port`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> subprocess.Popen[bytes]:
        file = tmp_path / "port"
        before = file.stat().st_mtime_ns if file.exists() else None
        command = [sys.executable, "-m", "tests.integration.lora_server", "builtin:tiny-qwen3", str(file), *more]
        process = subprocess.Popen(command, cwd=ROOT)
        started.append(process)
        until = time.monotonic() + 60
        while not file.exists() or file.stat().st_mtime_ns == before:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < until
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _train(tmp_path: Path, *flags: str) -> int:
    address = f"http://127.0.0.1:{(tmp_path / 'port').read_text(encoding='utf-8')}/v1"
    named = ["--rollout.engine", "vllm-server", "--server.address", address, "--server.timeout-s", "20"]
    return run_command(_main, ["letters.toml", "--output.run-dir", "run", *named, *flags])


def test_it_learns_from_what_a_server_generates(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    assert _train(tmp_path) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    assert "the server follows the trainer: with a changed adapter" in said
    steps = numbers_of(tmp_path / "run")
    rewards = [step["reward"] for step in steps]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5
    # The same model in float32 on both sides: every step was generated with that step's weights.
    assert max(step["log_prob_gap_largest"] for step in steps) < 1e-3
    assert not list((tmp_path / "run").glob("adapters-of-*"))


def test_a_server_that_has_come_up_anew_is_given_the_adapter_again(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    first = serve("6")  # 4 requests a step: it dies in the second
    command = [sys.executable, "-c", "from tanren.grpo.cli import main; main()", "letters.toml"]
    address = f"http://127.0.0.1:{(tmp_path / 'port').read_text(encoding='utf-8')}/v1"
    flags = ["--rollout.engine", "vllm-server", "--server.address", address, "--train.steps", "3"]
    run = subprocess.Popen([*command, *flags, "--output.run-dir", "run"], stderr=subprocess.PIPE, text=True)
    assert first.wait(timeout=120) == 9
    serve()
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "has forgotten the adapter; it is loaded again" in said
    assert [step["step"] for step in numbers_of(tmp_path / "run")] == [1, 2, 3]
    assert max(step["log_prob_gap_largest"] for step in numbers_of(tmp_path / "run")) < 1e-3


def test_a_server_that_is_gone_ends_the_run_with_one_message_and_nothing_logged_is_lost(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve("6")
    short = ["--train.steps", "3", "--checkpoint.every-steps", "1", "--server.total-s", "3", "--server.timeout-s", "3"]
    assert _train(tmp_path, *short) == 3
    said = capsys.readouterr().err
    assert "has not answered within server.total_s = 3 s" in said
    assert "Traceback" not in said
    assert {line["step"] for line in lines_of(tmp_path / "run")} == {1}
    serve()
    assert _train(tmp_path, *short, "--resume", "run") == 0
    assert [step["step"] for step in numbers_of(tmp_path / "run")] == [1, 2, 3]


def test_the_engine_that_generates_answers_the_evaluations_too(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    flags = ["--evaluation.enabled", "--evaluation.max-new-tokens", "6", "--train.steps", "8"]
    assert _train(tmp_path, *flags) == 0, capsys.readouterr().err
    evaluations = [tmp_path / name / "evaluation" for name in ("run", "again")]
    (tmp_path / "evaluate.toml").write_text(EVALUATE, encoding="utf-8")
    again = ["evaluate.toml", "--candidate", "trained=run", "--output.run-dir", "again"]
    assert run_command(evaluate, again) == 0, capsys.readouterr().err
    for candidate in ("base", "trained"):
        found, expected = (read_predictions(one / candidate / "predictions.jsonl") for one in evaluations)
        assert found == expected
    assert found != read_predictions(evaluations[0] / "base" / "predictions.jsonl")


# A step of this recipe moves the model further than the standard limit lets pass.
AHEAD = ("--rollout.ahead", "1", "--loss.correction", "token", "--loss.max-gap", "1")


def test_it_learns_from_completions_that_are_one_step_old_and_stops_at_those_too_far_from_the_model(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    assert _train(tmp_path, *AHEAD) == 0, capsys.readouterr().err
    steps = numbers_of(tmp_path / "run")
    rewards = [step["reward"] for step in steps]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5
    # Step 1 samples with the weights that it learns from; every later one with those of the step before.
    assert steps[0]["log_prob_gap_largest"] < 1e-3
    assert min(step["log_prob_gap_largest"] for step in steps[1:6]) > 5e-3
    said = capsys.readouterr().err
    assert "generated and judged while the model learned" in said
    assert "such completions are one step old" in said
    (tmp_path / "run").rename(tmp_path / "learned")
    assert _train(tmp_path, *AHEAD[:-2]) == 1
    assert "The completions are one step old (rollout.ahead)" in capsys.readouterr().err


def test_completions_under_way_are_in_the_checkpoint_and_the_run_goes_on_with_them(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve()
    short = [*AHEAD, "--train.steps", "6", "--checkpoint.every-steps", "2", "--rollout.refills", "1"]
    assert _train(tmp_path, *short) == 0, capsys.readouterr().err
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-4")
    assert _train(tmp_path, *short, "--resume", "run") == 0, capsys.readouterr().err
    assert "resuming after step 2 of 6" in capsys.readouterr().err
    assert numbers_of(tmp_path / "run") == numbers_of(whole)
    assert lines_of(tmp_path / "run") == lines_of(whole)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rollout.engine", "vllm-server"], "needs its address, found server.address = None"),
        (["--server.address", "http://127.0.0.1:9/v1"], "server.address (flag --server.address) has no effect"),
        (
            AHEAD,
            "rollout.ahead = 1 needs an engine that works beside the trainer: vllm-server, found rollout.engine = auto",
        ),
        (
            ["--rollout.engine", "vllm-server", "--server.address", "http://127.0.0.1:9/v1", "--rollout.ahead", "1"],
            "completions are one step old, and with loss.correction = none",
        ),
        (
            ["--rollout.engine", "vllm-server", "--server.address", "http://127.0.0.1:9/v1", "--lora.dora"],
            "lora.dora: a vLLM server takes no such adapter",
        ),
        (
            ["--rollout.engine", "vllm-server", "--server.address", "http://127.0.0.1:9/v1"],
            "no server at http://127.0.0.1:9/v1",
        ),
    ],
)
def test_what_is_wrong_with_a_server_is_told(
    flags: Sequence[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(_main, ["letters.toml", *flags]) in (2, 3)
    assert told in capsys.readouterr().err
