"""train-grpo from recipe to adapter: it learns, and a flipped gradient does not; what it logs adds up; what stops it is told."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .grpo_runs import lines_of, numbers_of, summary_of

Command = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]


def _rise(run: Path) -> float:
    rewards = [step["reward"] for step in numbers_of(run)]
    return float(sum(rewards[-3:]) - sum(rewards[:3])) / 3


@pytest.mark.filterwarnings("ignore")
def test_the_mean_reward_rises_and_with_the_gradient_flipped_it_does_not(
    train_grpo: Command, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_grpo("letters.toml", "--output.run-dir", letters / "right") == 0
    from tanren.grpo import losses, trainer

    right = losses.token_terms

    def flipped(*arguments: Any, **settings: Any) -> Any:
        terms = right(*arguments, **settings)
        return replace(terms, loss=-terms.loss)

    monkeypatch.setattr(trainer, "token_terms", flipped)
    assert train_grpo("letters.toml", "--output.run-dir", letters / "flipped") == 0
    # A tenth of the words are small letters at first; 0.95 is reached.
    assert _rise(letters / "right") > 0.6
    assert _rise(letters / "flipped") < 0.05
    summary = summary_of(letters / "right")
    assert summary["first_reward"] < 0.3
    assert summary["last_reward"] > 0.8
    assert (letters / "right" / "adapter" / "adapter_model.safetensors").is_file()
    page = (letters / "right" / "report.html").read_text(encoding="utf-8")
    assert all(part in page for part in ("Mean reward", "Seconds of each step", "where the time went: generate"))


@pytest.mark.filterwarnings("ignore")
def test_every_completion_is_logged_and_the_account_is_exact(train_grpo: Command, letters: Path) -> None:
    flags = ("--train.steps", 5, "--train.updates-per-step", 2, "--rollout.refills", 1)
    run = letters / "run"
    assert train_grpo("letters.toml", *flags, "--train.micro-batch-tokens", 100, "--output.run-dir", run) == 0
    lines, steps, summary = lines_of(run), numbers_of(run), summary_of(run)
    assert len(lines) == 5 * 4 * 8 == summary["completions"]
    excluded = [line for line in lines if line["reward"] is None]
    assert {line["excluded_why"] for line in excluded} == {"task: not scorable"}
    assert len(excluded) == summary["excluded"] > 0
    assert all((line["advantage"] is None) == (line["reward"] is None) for line in lines)
    assert all((line["micro_step"] is None) == (not line["advantage"]) for line in lines)
    assert summary["micro_batches"] == sum(
        len({line["micro_step"] for line in lines if line["step"] == step["step"]} - {None}) for step in steps
    )
    assert summary["prompts"] == steps[-1]["prompts_drawn"] >= 20
    for step in steps:
        rewards = [line["reward"] for line in lines if line["step"] == step["step"] and line["reward"] is not None]
        assert step["reward"] == pytest.approx(sum(rewards) / len(rewards)) if rewards else step["reward"] is None
    with (run / "generations.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["completion"] for row in table] == [line["completion"] for line in lines]
    assert {
        "step",
        "micro_step",
        "prompt_id",
        "parsed_action",
        "target_action",
        "reward/task",
        "advantage",
        "excluded_why",
    } <= table[0].keys()
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        metrics = list(csv.DictReader(file))
    assert float(metrics[1]["entropy_ema"]) == pytest.approx(0.9 * steps[0]["entropy"] + 0.1 * steps[1]["entropy"])
    seconds = {"seconds_generate", "seconds_sync", "seconds_reward", "seconds_score", "seconds_train", "seconds_other"}
    assert seconds <= metrics[0].keys()
    assert sum(summary["seconds_of_steps"].values()) == pytest.approx(
        sum(float(row["seconds"]) for row in metrics), abs=0.1
    )


@pytest.mark.filterwarnings("ignore")
def test_what_is_left_open_is_chosen_and_recorded(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["letters.toml", "--output.run-dir", letters / "run"]
    flags += ["--train.micro-batch-tokens", "auto", "--train.gradient-checkpointing", "auto", "--train.steps", 2]
    assert train_grpo(*flags) == 0
    recorded = tomllib.loads((letters / "run" / "config.toml").read_text(encoding="utf-8"))["train"]
    assert f"plan: train.micro_batch_tokens = {recorded['micro_batch_tokens']}" in capsys.readouterr().err
    assert recorded["gradient_checkpointing"] == "none"
    # Four prompts once each, and 32 completions of 6 tokens: all in one pass.
    assert recorded["micro_batch_tokens"] >= 32 * 6 + 4 * 24
    assert all(step["micro_batches"] == 1 for step in numbers_of(letters / "run"))


@pytest.mark.filterwarnings("ignore")
def test_a_value_file_gives_prompts_rewards_and_regret(train_grpo: Command, letters: Path) -> None:
    header = "id,prompt,q_action_0,q_action_1,q_action_2,q_action_3\n"
    rows = [f"s{n},state {n},{-1 - n},-2.5,-2.7,-9\n" for n in range(4)]
    (letters / "q.csv").write_text(header + "".join(rows), encoding="utf-8")
    recipe = (
        (letters / "letters.toml")
        .read_text(encoding="utf-8")
        .replace('[task]\nname = "./letters"\n', '[data]\nfile = "q.csv"\n')
    )
    recipe += '\n[[rewards]]\nkind = "boltzmann"\ntau = 0.5\ninvalid_penalty = -0.5\n'
    (letters / "q.toml").write_text(recipe, encoding="utf-8")
    assert train_grpo("q.toml", "--train.steps", 2, "--output.run-dir", letters / "run") == 0
    lines = lines_of(letters / "run")
    assert {line["prompt_id"] for line in lines} == {"s0", "s1", "s2", "s3"}
    assert {line["target_action"] for line in lines if line["prompt_id"] in ("s0", "s1")} == {0}
    assert {line["reward"] for line in lines if line["parsed_action"] is None} == {-0.5}
    assert {"accuracy", "regret", "parse_rate"} <= numbers_of(letters / "run")[0].keys()


def _rows(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


RENDERED = "<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n"
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "division": (
        ("--train.updates-per-step", 3),
        "rollout.prompts_per_step = 4 cannot be shared among train.updates_per_step = 3 updates: every update takes whole "
        "groups; write updates_per_step = 1 or 2 or 4, or prompts_per_step = 6",
    ),
    "clip on policy": (
        ("--loss.clip-high", 0.3),
        "loss.clip_high (flag --loss.clip_high) has no effect with train.updates_per_step = 1",
    ),
    "vllm settings": (
        ("--vllm.sleep-level", 2, "--rollout.engine", "transformers"),
        "vllm.sleep_level (flag --vllm.sleep_level) has no effect with rollout.engine = transformers",
    ),
    "too few prompts": (
        ("--rollout.prompts-per-step", 13),
        "there are 12 prompts: a step takes none twice; write at most 12",
    ),
    "no such engine": (
        ("--rollout.engine", "vllm", "--model.device", "cpu"),
        "rollout.engine = vllm: vLLM generates on a GPU, and this run's device is the CPU; write transformers",
    ),
    "long prompt": (
        ("--rollout.max-prompt-tokens", 10),
        "row train-0: its prompt has 24 tokens, and rollout.max_prompt_tokens is 10",
    ),
    "no file": (("--data.file", "nowhere.jsonl"), "no file nowhere.jsonl"),
    "rendered": (
        ("--data.file", "rendered.jsonl"),
        "row rendered.jsonl:2: turn 1 (user) holds <|im_end|>, <|im_start|>, which the chat template",
    ),
    "same id": (("--data.file", "twice.jsonl"), "twice.jsonl: the id 'a' comes more than once"),
    "no question": (("--data.file", "empty.jsonl"), "empty.jsonl:1: prompt: found no question"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_told_before_anything_is_written(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    _rows(
        letters / "rendered.jsonl",
        *({"prompt": f"what {n}?"} for n in range(1)),
        {"prompt": RENDERED},
        *({"prompt": f"{n}?"} for n in range(4)),
    )
    _rows(letters / "twice.jsonl", {"prompt": "x", "id": "a"}, {"prompt": "y", "id": "a"})
    _rows(letters / "empty.jsonl", {"prompt": " "})
    flags, told = REFUSED[case]
    code = train_grpo("letters.toml", *flags, "--output.runs", letters / "runs")
    said = capsys.readouterr().err
    assert code == 2
    assert told in said
    assert "Traceback" not in said
    assert not list((letters / "runs").glob("*")) or case == "no such engine"


@pytest.mark.filterwarnings("ignore")
def test_a_reward_that_fails_ends_with_one_message_and_loses_no_log(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (letters / "own.py").write_text(
        "calls = 0\n\n\ndef nan_later(completions, rows):\n    global calls\n    calls += 1\n"
        "    return [float('nan') if calls > 2 else float(len(one)) for one in completions]\n",
        encoding="utf-8",
    )
    recipe = (letters / "letters.toml").read_text(
        encoding="utf-8"
    ) + '\n[[rewards]]\nkind = "function"\nfunction = "own.py:nan_later"\n'
    (letters / "nan.toml").write_text(recipe, encoding="utf-8")
    assert train_grpo("nan.toml", "--output.run-dir", letters / "run") == 2
    said = capsys.readouterr().err
    assert "the reward 'nan_later'" in said
    assert "Traceback" not in said
    assert summary_of(letters / "run")["status"] == "failed"
    assert [step["step"] for step in numbers_of(letters / "run")] == [1, 2]
    assert len(lines_of(letters / "run")) == 2 * 32


@pytest.mark.filterwarnings("ignore")
def test_a_run_stands_on_its_parents_result_and_records_it(train_grpo: Command, letters: Path) -> None:
    from tanren.common.merge import merge_run

    parent, child, same = letters / "parent", letters / "child", letters / "same"
    # not the recipe's head: it shares its weights with the embeddings, so it cannot be merged
    layers = ("--lora.target-modules", "q_proj", "v_proj")
    assert train_grpo("letters.toml", "--train.steps", 3, *layers, "--output.run-dir", parent) == 0
    merge_run(str(parent), letters / "merged", "float32", None)
    flags = ("--train.steps", 2, "--loss.beta", 0.1, *layers)
    assert train_grpo("letters.toml", "--model.parent", parent, *flags, "--output.run-dir", child) == 0
    assert train_grpo("letters.toml", "--model.name", letters / "merged", *flags, "--output.run-dir", same) == 0
    found, expected = ([line["completion"] for line in lines_of(run)] for run in (child, same))
    assert found == expected
    assert found[:32] != [line["completion"] for line in lines_of(parent)][:32]
    assert numbers_of(child)[0]["reference_kl"] == 0  # the reference is the parent's result, not the base
    recorded = json.loads((child / "adapter" / "provenance.json").read_text(encoding="utf-8"))["parents"]
    own = json.loads((parent / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    assert [link["adapter_sha256"] for link in recorded] == [own["adapter_sha256"]]
    assert (child / "adapter" / recorded[0]["folder"] / "adapter_model.safetensors").is_file()


def test_a_parent_that_is_no_run_is_told(train_grpo: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_grpo("letters.toml", "--model.parent", "nowhere") == 2
    assert "model.parent 'nowhere': no such folder" in capsys.readouterr().err
