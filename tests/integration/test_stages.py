"""A recipe with stages: each trains on the base with all before it merged, and stopping anywhere loses nothing."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tanren.common.chain import read_adapter
from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.common.recipe_command import read_arguments
from tanren.sft.command import COMMAND
from tanren.sft.config import SftConfig
from tanren.sft.stages import run_stages

from .conftest import Command, lines_until, start, steps_of

STAGES = """
[[stages]]
name = "one"
[stages.optim]
lr = 1e-2

[[stages]]
name = "two"
[stages.lora]
rank = 4
[stages.train]
max_steps = 4
"""


@pytest.fixture
def staged(work: Path) -> Iterator[Path]:
    """The working folder, with a recipe of two stages. One thread: a tiny model waits longer for a second one than for itself."""
    import torch

    threads = torch.get_num_threads()
    recipe = (work / "tiny.toml").read_text(encoding="utf-8").replace("[data]", "threads = 1\n\n[data]")
    (work / "tiny.toml").write_text(recipe, encoding="utf-8")
    (work / "staged.toml").write_text(recipe + STAGES, encoding="utf-8")
    yield work
    torch.set_num_threads(threads)


def _in_this_process(loaded: Loaded[SftConfig], resume: str | None) -> int:
    from tanren.sft.job import run_job
    from tanren.sft.plan import make_plan

    return run_job(make_plan(loaded, resume), resume=resume)


def _run(*arguments: object, run_stage: Any = _in_this_process) -> int:
    request = read_arguments(COMMAND, ["staged.toml", *map(str, arguments)])
    assert request is not None
    return run_stages(request, run_stage)


def _summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


def _weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_stages_equal_recipes_chained_by_their_parents_bit_for_bit(staged: Path, train_sft: Command) -> None:
    assert _run("--output.run-dir", "whole") == 0
    first = ("--name", "first", "--optim.lr", "1e-2")
    assert train_sft("tiny.toml", *first) == 0
    second = ("--name", "second", "--model.parent", "latest:first", "--lora.rank", "4", "--train.max-steps", "4")
    assert train_sft("tiny.toml", *second, "--output.run-dir", "apart") == 0
    two = staged / "whole" / "stages" / "2-two"
    assert steps_of(two) == steps_of(staged / "apart")
    assert _weights(two) == _weights(staged / "apart")

    summary = _summary(staged / "whole")
    assert [(stage["name"], stage["status"], stage["steps"]) for stage in summary["stages"]] == [
        ("one", "done", 6),
        ("two", "done", 4),
    ]
    adapter = read_adapter(staged / "whole" / summary["adapter"])
    one = read_adapter(staged / "whole" / "stages" / "1-one" / "adapter").itself
    assert [link.adapter_sha256 for link in adapter.parents] == [one.adapter_sha256]
    assert adapter.parents[0].run == "whole/1-one"
    assert json.loads((two / "environment.json").read_text(encoding="utf-8"))["parents"][0]["merged_in"] == "float32"

    # a third, on the result of the run with stages: both are merged, in their order
    assert train_sft("tiny.toml", "--model.parent", "whole", "--output.run-dir", "third") == 0
    third = read_adapter(staged / "third" / "adapter")
    assert [link.adapter_sha256 for link in third.parents] == [link.adapter_sha256 for link in (one, adapter.itself)]


def test_a_run_stopped_in_its_first_stage_goes_on_there_and_ends_as_a_straight_one(
    staged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (staged / "staged.toml").read_text(encoding="utf-8")
    (staged / "staged.toml").write_text(recipe.replace("max_steps = 6", "max_steps = 40"), encoding="utf-8")
    more = ("--checkpoint.every-steps", 0)
    process = start("train-sft", "staged.toml", "--output.run-dir", "stopped", *more, cwd=staged)
    list(lines_until(process, "step 5/40"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stage 1 of 2, one: preempted (exit code 0); not started: two" in errors
    assert [stage["status"] for stage in _summary(staged / "stopped")["stages"]] == ["preempted", "not finished"]

    with pytest.raises(UserError, match=r"optim\.lr|stages"):
        _run("--resume", "stopped", "--optim.lr", "0.5", *more)
    assert _run("--resume", "stopped", *more) == 0
    assert _run("--output.run-dir", "straight", *more) == 0
    for stage in ("1-one", "2-two"):
        stopped, straight = (staged / run / "stages" / stage for run in ("stopped", "straight"))
        assert steps_of(stopped) == steps_of(straight)
        assert _weights(stopped) == _weights(straight)
    capsys.readouterr()


def test_a_stage_that_fails_ends_the_run_with_its_exit_code_and_finished_ones_are_kept(
    staged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def only_the_first(loaded: Loaded[SftConfig], resume: str | None) -> int:
        return _in_this_process(loaded, resume) if loaded.config.name == "tiny-one" else 3

    assert _run("--output.run-dir", "run", run_stage=only_the_first) == 3
    assert "stage 2 of 2, two: failed (exit code 3); to continue" in capsys.readouterr().err
    kept = _weights(staged / "run" / "stages" / "1-one")
    (staged / "run" / "stages" / "2-two").mkdir()  # as after a kill before the first checkpoint
    assert _run("--resume", "run") == 0
    said = capsys.readouterr().err
    assert "stage 1 of 2, one: finished before, kept (adapter sha256" in said
    assert "had been stopped before its first checkpoint" in said
    assert _weights(staged / "run" / "stages" / "1-one") == kept
    assert _summary(staged / "run")["status"] == "done"


def test_a_stage_that_was_preempted_ends_the_run_also_where_its_exit_code_says_nothing(staged: Path) -> None:
    def preempted(loaded: Loaded[SftConfig], resume: str | None) -> int:
        folder = loaded.config.output.run_dir
        assert folder is not None
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text('{"status": "preempted"}', encoding="utf-8")
        return 0

    assert _run("--output.run-dir", "run", run_stage=preempted) == 0
    assert _summary(staged / "run")["status"] == "preempted"
    assert [path.name for path in (staged / "run" / "stages").iterdir()] == ["1-one"]


def test_a_finished_stage_whose_adapter_was_changed_is_not_built_upon(staged: Path) -> None:
    def only_the_first(loaded: Loaded[SftConfig], resume: str | None) -> int:
        return _in_this_process(loaded, resume) if loaded.config.name == "tiny-one" else 3

    _run("--output.run-dir", "run", run_stage=only_the_first)
    weights = staged / "run" / "stages" / "1-one" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="is another file than the one that"):
        _run("--resume", "run")


def test_a_parent_of_another_model_or_template_is_refused_before_a_run_begins(
    staged: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--output.run-dir", "parent") == 0
    capsys.readouterr()
    other = ("--model.name", "builtin:tiny-gpt-oss", "--lora.target-modules", "q_proj", "--model.parent", "parent")
    assert train_sft("tiny.toml", *other) == 2
    assert "was trained on builtin:tiny-qwen3, and model.name is builtin:tiny-gpt-oss" in capsys.readouterr().err
    record = staged / "parent" / "adapter" / "provenance.json"
    values = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(values | {"chat_template_hash": "0123"}), encoding="utf-8")
    assert train_sft("tiny.toml", "--model.parent", "parent") == 2
    assert "was trained with the chat template 0123" in capsys.readouterr().err
    assert not list((staged / "runs").glob("*"))


def test_a_resumed_child_keeps_the_parent_that_it_began_with(staged: Path, train_sft: Command) -> None:
    assert train_sft("tiny.toml", "--name", "parent", "--output.runs", "old") == 0
    (parent,) = (staged / "old").glob("parent-*")
    shutil.copytree(parent, staged / "runs" / "parent-20260101-000000")
    assert train_sft("tiny.toml", "--model.parent", "latest:parent", "--output.run-dir", "child") == 0
    before = _weights(staged / "child")
    (staged / "child" / "summary.json").unlink()
    assert train_sft("tiny.toml", "--name", "parent", "--seed", 5) == 0  # a newer one of that name
    assert train_sft("tiny.toml", "--model.parent", "latest:parent", "--resume", "child") == 0
    assert _weights(staged / "child") == before


def test_a_stage_process_hands_on_its_exit_code(staged: Path) -> None:
    from tanren.sft.stages import in_own_process

    request = read_arguments(COMMAND, ["tiny.toml"])
    assert request is not None
    (staged / "rows.jsonl").unlink()
    assert in_own_process(request.loaded, None) == 2
