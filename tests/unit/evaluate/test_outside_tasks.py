"""Tasks of an outside list, from the file to predictions, scores in three modes, report, viewer, ranking and submission."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory
from tanren.common.task_packs import load_pack
from tanren.evaluate.listing import write_candidates
from tanren.evaluate.predictions import Prediction, read_predictions, read_tasks, write_predictions
from tanren.evaluate.report import write_report
from tanren.evaluate.task_list import read_task_list
from tanren.evaluate.view._workbench import Workbench
from tests.browser import Browser

ROOT = Path(__file__).resolve().parents[3]
Evaluate = Callable[..., int]
TASKS = [
    {"task_id": "p_1", "task_name": "Text to TOML", "query": "Write a = 1.", "output_type": "TOML"},
    {"task_id": "p_2", "task_name": "CSV to JSON", "query": "Convert.\\n\\n<code>n,m\n1,x\n</code>", "output_type": "JSON"},
    {"task_id": "p_3", "task_name": "JSON to YAML", "query": 'Convert: <code>{"k": [1, 2]}', "output_type": "YAML"},
    {"task_id": "p_4", "task_name": "JSON to YAML", "query": "Convert: <code>{broken</code>", "output_type": "YAML"},
]  # fmt: skip
GOOD = {"p_1": "a = 1", "p_2": '[{"n": "1", "m": "x"}]', "p_3": "k:\n  - 1\n  - 2\n", "p_4": "k: 1"}
FENCED = {"p_1": "```toml\na = 1\n```", "p_2": '```json\n[{"n": 2, "m": "x"}]\n```', "p_3": "k: [1", "p_4": ""}
RECIPE = """
name = "outside"
tasks = "tasks.json"
[model]
name = "builtin:tiny-qwen3"
dtype = "float32"
device = "cpu"
threads = 1
[task]
name = "structured"
[generation]
max_new_tokens = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a list of four tasks and a recipe."""
    (tmp_path / "tasks.json").write_text(json.dumps(TASKS), encoding="utf-8")
    (tmp_path / "outside.toml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def generated(here: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> RunDirectory:
    """Return a run that a model has answered the list in."""
    assert evaluate("outside.toml", "--output.run-dir", "run") == 0
    told = capsys.readouterr().err
    assert "4 tasks of tasks.json" in told
    assert "4 (2)" in told  # of all four, two are compared
    return RunDirectory(Path("run"))


def answer(run: RunDirectory, **answers: Mapping[str, str]) -> None:
    """Put other answers in the place of those that were generated, of as many candidates."""
    hashes = {one.id: one.prompt_hash for one in read_predictions(run.evaluation / "base" / "predictions.jsonl")}
    write_candidates(run.evaluation, [{"name": name} for name in answers])
    for name, texts in answers.items():
        made = [Prediction(one, text, hashes[one], "stop", 3, 2) for one, text in texts.items()]
        write_predictions(run.evaluation / name / "predictions.jsonl", made)


def test_the_run_keeps_the_tasks_and_says_which_file_they_are_of(generated: RunDirectory) -> None:
    rows = read_tasks(generated.evaluation / "tasks.jsonl")
    assert [(row.id, row.compared) for row in rows] == [("p_1", False), ("p_2", True), ("p_3", True), ("p_4", False)]
    found = json.loads(generated.summary.read_text())["evaluation"]
    assert (found["tasks"]["file"], found["tasks"]["n"], found["tasks"]["compared"]) == ("tasks.json", 4, 2)
    assert len(found["tasks"]["sha256"]) == 64
    assert found["modes"]["base"].keys() == {"lenient", "strict", "compatible"}
    assert found["candidates"]["base"]["judged_by"] == "valid"
    assert "NaN" not in generated.summary.read_text()


def test_the_runs_own_predictions_are_scored_against_the_list(
    generated: RunDirectory, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(generated, base=FENCED, trained=GOOD)
    path = generated.evaluation / "trained" / "predictions.jsonl"
    assert evaluate("score", "structured", path, "--tasks", "tasks.json", "--json") == 0
    modes = json.loads(capsys.readouterr().out)
    assert {name: (one["valid"], one["total"]) for name, one in modes.items()} == dict.fromkeys(modes, (4, 4))
    assert modes["strict"]["compared"] == 2
    assert evaluate("score", "structured", generated.evaluation / "base" / "predictions.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[mode]["valid"] for mode in ("lenient", "strict", "compatible")] == [
        3,
        0,
        2,
    ]  # lenient: nothing is a YAML document too
    pooled = found["by_group"]["all"]
    assert (pooled["valid"]["count"], pooled["valid"]["n"]) == (2, 4)
    assert (pooled["correct"]["count"], pooled["correct"]["n"]) == (0, 2)
    assert found["by_group"]["toml"]["correct"]["value"] is None
    assert pooled["verdicts"] == {"uncompared": 1, "wrong": 1, "unparsable": 1, "absent": 1}


def test_candidates_are_ranked_by_valid_answers_where_not_all_can_be_compared(
    generated: RunDirectory, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(generated, base=FENCED, trained=GOOD, third=GOOD | {"p_3": "k: [1, 3]"})
    assert evaluate("compare", "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ranking"]["metric"] == "valid"
    assert [(one["name"], one["value"], one["n"]) for one in found["ranking"]["order"]] == [
        ("run/trained", 1.0, 4),
        ("run/third", 1.0, 4),
        ("run/base", 0.5, 4),
    ]
    difference = found["differences"]["run/third"]["all"]
    assert (difference["valid"]["n"], difference["correct"]["n"], difference["correct"]["value"]) == (4, 2, 0.5)
    assert found["differences"]["run/third"]["toml"]["correct"]["value"] is None
    assert found["modes"]["run/third"]["strict"]["valid"] == 3
    assert evaluate("compare", "run") == 0
    table = capsys.readouterr().out
    assert "Ranking by valid" in table
    assert "Percent valid [95 % interval] in 3 modes" in table


def test_candidates_are_ranked_by_the_mode_that_is_asked_for(
    generated: RunDirectory, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(generated, base=FENCED, trained=GOOD)
    assert evaluate("compare", "run", "--rank-by", "lenient", "--selection", "0.5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["value"]) for one in found["ranking"]["order"]] == [
        ("run/trained", 1),
        ("run/base", 0.75),
    ]
    assert (found["ranking"]["metric"], found["selection"]["metric"]) == ("lenient", "lenient")
    assert evaluate("compare", "run", "--rank-by", "strict") == 0
    table = capsys.readouterr().out
    assert "Ranking by strict" in table
    assert "+100 [" in table
    assert evaluate("compare", "run", "--rank-by", "compatible") == 2
    assert "rank_by = 'compatible': none of the 4 items is judged by it" in capsys.readouterr().err
    assert (
        evaluate(
            "outside.toml", "--candidate", "twin=builtin:tiny-qwen3", "--rank-by", "lenient", "--output.run-dir", "two"
        )
        == 0
    )
    assert "Ranking by lenient" in capsys.readouterr().err
    found = json.loads(Path("two/summary.json").read_text())["evaluation"]
    assert (found["ranking"]["metric"], found["ranking"]["pairs"][0]["p"]) == ("lenient", 1.0)
    assert "<h3>Ranking</h3>" in Path("two/report.html").read_text(encoding="utf-8")


def test_the_report_and_the_viewer_show_the_list(generated: RunDirectory) -> None:
    answer(generated, base=FENCED, trained=GOOD)
    page = write_report(generated).read_text(encoding="utf-8")
    assert "Candidates on the same tasks of tasks.json" in page
    assert "held-out" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert 'syntactically valid</span><b class="">+50 [' in page
    assert "what training data share with them is not known. Of 2 of them the right content is known" in page
    assert "no item is compared" in page
    bench = Workbench(generated)
    data = bench.data()
    assert [[one["verdict"] for one in item["answers"][1]] for item in data["items"]] == [
        ["uncompared"], ["correct"], ["correct"], ["uncompared"],
    ]  # fmt: skip
    saved = bench.save("base", "p_4", 0, "k: 2", "")
    assert saved["answers"]["base, edited"][0]["verdict"] == "uncompared"
    assert saved["scores"][1]["valid"].startswith("75 ")
    assert saved["scores"][1]["correct"].endswith(" of 2")
    wrong = bench.save("base", "p_3", 0, "k: [1, 3]", "k: [1")["answers"]["base, edited"][0]
    assert (wrong["verdict"], wrong["error"]) == ("wrong", "k[1]: found 3, expected 2")
    assert bench.shown("base", "p_2", 0)["kind"] == "table"


def test_edited_answers_of_the_list_make_a_submission(
    generated: RunDirectory, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(generated, base=GOOD)
    Workbench(generated).save("base", "p_1", 0, "a = 2", "a = 1")
    edited = generated.evaluation / "base" / "edited.jsonl"
    assert evaluate("submit", "structured", edited, "--tasks", "tasks.json", "--out", "submission.json") == 0
    assert json.loads(Path("submission.json").read_text())[0] == {"task_id": "p_1", "generation": "a = 2"}
    assert evaluate("submit", "structured", "submission.json", "--tasks", "tasks.json") == 0
    assert "4 entries, in the order of tasks.json" in capsys.readouterr().out


def test_the_list_is_named_on_the_command_line_too_and_options_without_effect_are_told(
    here: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.replace('tasks = "tasks.json"\n', "").replace(
        "[generation]", "[task.options]\nheldout_rows = 9\n[generation]"
    )
    Path("own.toml").write_text(recipe, encoding="utf-8")
    assert evaluate("own.toml", "--tasks", "tasks.json", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["plan"]["items"], found["plan"]["completions"]) == ("4 tasks of tasks.json", 4)
    [warning] = found["warnings"]
    assert warning == "task.options.heldout_rows: no effect, as tasks = tasks.json says what is asked (flag --tasks)"


def test_rows_that_were_left_by_a_run_are_a_list_too(generated: RunDirectory) -> None:
    path = generated.evaluation / "tasks.jsonl"
    listed = read_task_list(load_pack("structured"), path)
    assert listed.rows == read_task_list(load_pack("structured"), Path("tasks.json")).rows
    assert not listed.outside


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.json", None, "none.json: it is not there; name the file of the tasks with --tasks FILE"),
        ("empty.json", "[]", "empty.json: no task is in it"),
        ("twice.json", json.dumps([TASKS[0], TASKS[0]]), "task 2: the id 'p_1' is there twice"),
        (
            "type.json",
            json.dumps([TASKS[0] | {"output_type": "INI"}]),
            "task 1: output_type: found 'INI', expected one of",
        ),
        ("tasks.jsonl", '{"task_id": "p_1"}\n', "tasks.jsonl:1: not a task; expected an object with id, prompt,"),
        ("torn.json", '[{"task_id"', "torn.json:1: not JSON"),
        ("lines.jsonl", "\n", "lines.jsonl: no task is in it"),
    ],
)
def test_a_list_with_a_fault_is_told_before_anything_is_generated(
    here: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], name: str, text: str | None, told: str
) -> None:
    if text is not None:
        Path(name).write_text(text, encoding="utf-8")
    assert evaluate("outside.toml", "--tasks", name, "--output.run-dir", "run") == 2
    assert told in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_pack_that_reads_no_list_says_so(here: Path) -> None:
    with pytest.raises(UserError, match="the pack tes reads no outside tasks"):
        read_task_list(load_pack("tes"), Path("tasks.json"))


def test_the_150_public_tasks_go_the_whole_way(
    here: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    public = next((place / "shared/data/structeval/public_150.json" for place in (ROOT.parent, ROOT.parent.parent)
                   if (place / "shared/data/structeval/public_150.json").is_file()), None)  # fmt: skip
    if public is None:
        pytest.skip("no shared/data/structeval/public_150.json beside the checkout")
    listed = read_task_list(load_pack("structured"), public)
    assert listed.record() | {"sha256": ""} == {"file": str(public), "sha256": "", "n": 150, "compared": 102}
    made: list[dict[str, Any]] = [{"task_id": row.id, "generation": '{"a": 1}'} for row in listed.rows]
    Path("submission.json").write_text(json.dumps(made), encoding="utf-8")
    assert evaluate("score", "structured", "submission.json", "--tasks", public, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {mode: one["total"] for mode, one in found.items()} == dict.fromkeys(
        ("lenient", "strict", "compatible"), 150
    )
    assert found["lenient"]["by_format"]["JSON"] == {"valid": 50, "total": 50}


def test_a_page_of_a_list_has_no_pane_of_what_is_not_expected(generated: RunDirectory, browser: Browser) -> None:
    answer(generated, base=FENCED, trained=GOOD)
    browser.open(write_report(generated).absolute().as_uri())
    browser.run("document.querySelector('[data-id=p_1] summary').click()")
    browser.wait("document.querySelectorAll('[data-id=p_1] .pane').length === 3")
    assert browser.run("document.querySelector('[data-id=p_1] .verdicts').textContent") == (
        "base ✓ valid, uncomparedtrained ✓ valid, uncompared"
    )
    assert browser.run("document.querySelector('[name=diff]').parentElement.checkVisibility()") is False
    assert "uncompared (2)" in browser.run("document.querySelector('[name=verdict]').textContent")
    assert browser.errors == []
