"""`tanren task check`: it finds what is broken, and says where and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tanren.common.errors import ExitCode, UserError
from tanren.common.task_command import check_pack, run_task


def _failed(folder: Path) -> dict[str, str]:
    return {finding.check: finding.detail for finding in check_pack(str(folder)) if not finding.passed}


def _edit(folder: Path, old: str, new: str, file: str = "task.py") -> None:
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("pack", ["extraction", "tes"])
def test_the_packs_of_the_workspace_keep_the_contract(pack: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_task(["check", pack, "--rows", "40", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one for one in found["checks"] if not one["passed"]] == []
    assert (code, found["passed"]) == (ExitCode.DONE, True)


def test_a_pack_of_a_page_keeps_it(pack_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_task(["check", str(pack_folder)]) == ExitCode.DONE
    assert "keeps the contract" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "check", "told"),
    [
        ("WORDS[-options.count :]", "WORDS[: options.count]", "splits apart", "has the prompt of 'train-ash' of train"),
        ("    return [\n        Row(", "    words = list({*words})\n    return [\n        Row(", "repeatable", "the order of a set"),
        (
            "    return [\n        Row(",
            "    import random\n    random.shuffle(words)\n    return [\n        Row(",
            "repeatable",
            "a second call gives other rows",
        ),
        ('"short" if', '"all" if', "rows of train", "'all' is the pooled row"),
        ("word.upper(), \"short\"", "'', \"short\"", "rows of train", "its reference is ''"),
        ('long", word.upper())', 'long", word)', "gold answers", "its own reference is judged wrong"),
        ('long", word.upper())', 'long", {word.upper()})', "rows survive JSON", "cannot be written as JSON"),
        ('(Message("user", word),)', '(Message("assistant", word),)', "rows of train", "its last turn is of 'assistant'"),
        ("answer == row.expected", "answer", "wrong answers", "the reference of another row is judged correct in every row"),
        ("    if not answer:\n", "    if not answer:\n        return Parsed(Verdict.CORRECT)\n", "wrong answers", "'' is judged correct"),
        ("float(parse(completion, row).correct)", "1.0", "wrong answers", "is not correct and earns 1"),
        ("float(parse(completion, row).correct)", "float('nan')", "reward", "the reward is nan"),
        (
            "def reward(completions, rows):\n",
            "def reward(completions, rows):\n    return [float(parse(c, r).correct) / len(rows) for c, r in zip(completions, rows)]\n",
            "reward",
            "alone; expected the same",
        ),
        ("    answer = completion.strip()\n", "    answer = completion.strip()\n    answer.encode()\n", "hostile answers", "a lone surrogate"),
        ("def reward(", "def measures(completion, row):\n    return {'n': 1}\n\n\ndef reward(", "metrics", "n is 1, expected a Ratio"),
    ],
)  # fmt: skip
def test_a_broken_pack_is_told_where_and_what_was_expected(
    pack_folder: Path, old: str, new: str, check: str, told: str
) -> None:
    _edit(pack_folder, old, new)
    failed = _failed(pack_folder)
    assert told in failed[check], failed
    assert "expected" in failed[check] or "decide the split" in failed[check] or "cannot be written" in failed[check]


def test_code_that_raises_is_told_with_its_line(pack_folder: Path) -> None:
    _edit(pack_folder, "    answer = completion.strip()\n", "    answer = row.missing\n")
    told = _failed(pack_folder)["gold answers"]
    assert "AttributeError" in told
    assert f"{pack_folder / 'task.py'}:" in told


def test_a_recipe_that_is_not_there_is_told(pack_folder: Path) -> None:
    text = (pack_folder / "task.toml").read_text(encoding="utf-8")
    (pack_folder / "task.toml").write_text(text + '\n[recipes]\ntrain-sft = "quick.toml"\n', encoding="utf-8")
    assert "recipes.train-sft: no file" in _failed(pack_folder)["task.toml"]
    (pack_folder / "quick.toml").write_text('[task]\nname = "other"\n', encoding="utf-8")
    assert "task.name is 'other', expected 'shout'" in _failed(pack_folder)["task.toml"]


def test_a_pack_that_does_not_load_fails_and_one_that_is_not_there_is_the_users_mistake(
    pack_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit(pack_folder, "def rows(", "def rowz(")
    assert run_task(["check", str(pack_folder)]) == ExitCode.FOUND_WANTING
    assert "task.py has no 'rows'" in capsys.readouterr().out
    with pytest.raises(UserError, match="no task pack at"):
        run_task(["check", "./nowhere"])
    with pytest.raises(UserError, match="--rows 0"):
        run_task(["check", str(pack_folder), "--rows", "0"])
