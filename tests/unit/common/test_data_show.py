"""`tanren data show`: the samples of a recipe, with what is learned of them marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tanren.common.cli import _main
from tanren.common.command import run_command

Show = Callable[..., tuple[int, str, str]]
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"add {n} and 1"},
            {"role": "assistant", "content": f"I count.\nOutput:\n{n + 1}"},
        ]
    }
    for n in range(5)
]


@pytest.fixture
def show(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Show:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nname = "builtin:tiny-qwen3"\n[data]\nfile = "rows.jsonl"\n'
        'learn_answer = "after_marker"\n[evaluation]\nenabled = false\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(_main, ["data", "show", "tiny.toml", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_what_is_learned_stands_in_brackets(show: Show) -> None:
    code, out, _ = show("--rows", "2")
    assert code == 0
    assert "I count.\nOutput:\n⟦1<|im_end|>⟧" in out
    assert "I count.\nOutput:\n⟦2<|im_end|>⟧" in out
    assert "⟦3" not in out
    assert "--- rows.jsonl:1: 50 tokens, 2 learned (4 %)" in out
    assert "5 samples from 5 rows" in out


def test_a_row_is_shown_by_its_name_and_flags_of_the_recipe_hold(show: Show) -> None:
    code, out, _ = show("--row", "rows.jsonl:4", "--data.learn-answer", "whole")
    assert code == 0
    assert "⟦I count.\nOutput:\n4<|im_end|>⟧" in out
    assert out.count("---") == 1


def test_json_has_the_runs_of_each_sample(show: Show) -> None:
    code, out, _ = show("--rows", "1", "--json")
    assert code == 0
    (sample,) = json.loads(out)["samples"]
    assert [run["learned"] for run in sample["runs"]] == [False, True, False]
    assert sum(run["tokens"] for run in sample["runs"]) == sample["tokens"]
    assert sample["runs"][1] == {"learned": True, "tokens": 2, "text": "1<|im_end|>"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--rows", "0"), "--rows '0': expected how many samples to print, 1 or more"),
        (("--row", "rows.jsonl:9"), "no sample of that name; the first are ['rows.jsonl:1'"),
        (("--dry-run",), "--dry-run has no effect here"),
        (
            ("--data.learn-answer", "whole", "--data.markers", "Out:"),
            "data.markers (flag --data.markers) has no effect",
        ),
    ],
)
def test_a_wrong_argument_is_told(show: Show, arguments: tuple[str, ...], told: str) -> None:
    code, _, errors = show(*arguments)
    assert code == 2
    assert told in errors


def test_another_word_than_show_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(_main, ["data", "shwo"]) == 2
    assert "tanren data 'shwo': did you mean show?" in capsys.readouterr().err
