"""The viewer in a real browser, started as the command that users type: answers as tables and trees, editing, ending."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tanren.common.cli import _main
from tanren.common.command import run_command
from tanren.common.run import RunDirectory
from tanren.evaluate.predictions import read_predictions, read_tasks, write_predictions
from tests.browser import Browser
from tests.viewer import TOKEN, serving

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = [sys.executable, "-c", "from tanren.common.cli import main; main()", "view"]


@contextmanager
def viewing(run: RunDirectory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command and give its process and the address that it prints; it is stopped if it still runs."""
    environment = os.environ | {"PIXI_PROJECT_ROOT": str(ROOT)}
    with subprocess.Popen(
        [*PROGRAM, str(run.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(4)]
        assert said[0] == f"{run.path}: 20 items, candidates: base, trained\n", process.stderr and process.stderr.read()
        assert said[2].startswith("from another machine, first: ssh -N -L ")
        try:
            yield process, said[1].strip()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)


@pytest.fixture
def page(browser: Browser, made_run: RunDirectory) -> Iterator[Browser]:
    put_answers(made_run)
    with serving(made_run) as port:
        browser.open(f"http://127.0.0.1:{port}/?token={TOKEN}")
        yield browser


def put_answers(run: RunDirectory) -> None:
    """Give the first items of the formats answers that are hard to show."""
    path = run.evaluation / "trained" / "predictions.jsonl"
    answers = {
        "csv": "name,age\nAda,36\n<b>Bob</b>,41,extra\nCy",
        "xml": "<root><item id='1'>one &amp; two</item><item><b>three</b></item></root>",
        "json": '{"a": [1, 2.50, {"b": null}], "big": 123456789012345678901234567890, "<i>": "<img src=x onerror=alert(1)>"}',
    }
    groups = {row.id: row.group for row in read_tasks(run.evaluation / "tasks.jsonl")}
    predictions = read_predictions(path)
    for group, text in answers.items():
        index = next(i for i, one in enumerate(predictions) if groups[one.id] == group)
        predictions[index] = type(predictions[index])(**(vars(predictions[index]) | {"completion": text}))
    write_predictions(path, predictions)


def pane(group: str, candidate: str = "trained") -> str:
    """Return how a script names the answer of the first item of a format, opened."""
    item = f"[...document.querySelectorAll('.item')].find((one) => one.querySelector('summary .tag').textContent === '{group}')"
    return f"({item}).querySelector('[data-candidate=\"{candidate}\"]')"


def open_first(browser: Browser, group: str) -> None:
    item = f"[...document.querySelectorAll('.item')].find((one) => one.querySelector('summary .tag').textContent === '{group}')"
    browser.run(f"({item}).open = true")
    browser.wait(f"({item}).querySelector('.pane .edit') && ({item}).querySelector('.shown')")


def press(browser: Browser, where: str, name: str) -> None:
    browser.run(
        f"[...{where}.querySelectorAll('button')].find((one) => one.textContent === {json.dumps(name)}).click()"
    )


def test_csv_is_a_table_that_shows_uneven_rows_and_raw_text_is_a_click_away(page: Browser) -> None:
    open_first(page, "csv")
    page.wait(f"{pane('csv')}.querySelector('table')")
    cells = (
        f"[...{pane('csv')}.querySelectorAll('table tr')].map((row) => [...row.children].map((one) => one.textContent))"
    )
    assert page.run(cells) == [["name", "age"], ["Ada", "36"], ["<b>Bob</b>", "41", "extra"], ["Cy", "1 missing"]]
    press(page, pane("csv"), "Raw")
    assert page.run(f"{pane('csv')}.querySelector('pre').textContent") == "name,age\nAda,36\n<b>Bob</b>,41,extra\nCy"
    press(page, pane("csv"), "Table")
    assert page.run(f"{pane('csv')}.querySelectorAll('table').length") == 1


def test_xml_and_json_are_trees_in_which_nothing_is_markup(page: Browser) -> None:
    open_first(page, "xml")
    page.wait(f"{pane('xml')}.querySelector('.shown')")
    tree = page.run(f"{pane('xml')}.querySelector('.shown').textContent")
    assert 'item id="1"' in tree
    assert "one & two" in tree
    open_first(page, "json")
    page.wait(f"{pane('json')}.querySelector('.shown')")
    tree = page.run(f"{pane('json')}.querySelector('.shown').textContent")
    assert "big: 123456789012345678901234567890" in tree
    assert '"<img src=x onerror=alert(1)>"' in tree
    assert page.run("document.querySelectorAll('.item img, .item i').length") == 0
    assert page.errors == []


def test_an_edit_is_saved_judged_and_taken_back(page: Browser, made_run: RunDirectory) -> None:
    open_first(page, "toml")
    path = made_run.evaluation / "base" / "edited.jsonl"
    press(page, pane("toml", "base"), "Edit")
    area = f"{pane('toml', 'base')}.querySelector('textarea')"
    gold = next(row.reference for row in read_tasks(made_run.evaluation / "tasks.jsonl") if row.group == "toml")
    page.run(f"{area}.value = {json.dumps(gold)}")
    press(page, pane("toml", "base"), "Save")
    page.wait("document.querySelectorAll('#scores tr').length === 3")
    assert gold in [one.completion for one in read_predictions(path)]
    page.wait(f"{pane('toml', 'base, edited')}?.querySelector('.tag.correct')")
    names = "[...document.querySelectorAll('#scores th')].map((one) => one.textContent)"
    assert page.run(names) == ["base", "base, edited", "trained"]
    assert page.run(f"{pane('toml', 'base')}.querySelector('.edit')") is None
    press(page, pane("toml", "base, edited"), "Take the edit back")
    page.wait("document.querySelectorAll('#scores tr').length === 2")
    assert not path.exists()
    assert page.errors == []


def test_what_was_edited_meanwhile_is_shown_before_it_is_replaced(page: Browser, made_run: RunDirectory) -> None:
    open_first(page, "toml")
    where = pane("toml", "trained")
    press(page, where, "Edit")
    path = made_run.evaluation / "trained" / "predictions.jsonl"
    identity = next(row.id for row in read_tasks(made_run.evaluation / "tasks.jsonl") if row.group == "toml")
    theirs = [
        type(one)(**(vars(one) | {"completion": "theirs = 1"})) if one.id == identity else one
        for one in read_predictions(path)
    ]
    write_predictions(path.with_name("edited.jsonl"), theirs)
    page.run(f"{where}.querySelector('textarea').value = 'ours = 2'")
    press(page, where, "Save")
    page.wait(f"{where}.querySelector('.said pre')")
    assert page.run(f"{where}.querySelector('.said pre').textContent") == "theirs = 1"
    assert page.run(f"{where}.querySelector('textarea').value") == "ours = 2"
    press(page, where, "Save mine all the same")
    page.wait("document.querySelectorAll('#scores tr').length === 3")
    saved = {one.id: one.completion for one in read_predictions(path.with_name("edited.jsonl"))}
    assert saved[identity] == "ours = 2"


def test_what_is_being_written_survives_a_save_elsewhere(page: Browser, made_run: RunDirectory) -> None:
    open_first(page, "toml")
    open_first(page, "csv")
    press(page, pane("csv"), "Edit")
    area = f"{pane('csv')}.querySelector('textarea')"
    page.run(f"{area}.value = 'draft'; {area}.dispatchEvent(new Event('input'))")
    press(page, pane("toml"), "Edit")
    page.run(f"{pane('toml')}.querySelector('textarea').value = 'a = 1'")
    press(page, pane("toml"), "Save")
    page.wait("document.querySelectorAll('#scores tr').length === 3")
    kept = f"{pane('csv', 'trained, edited')}.querySelector('textarea')"
    page.wait(kept)
    assert page.run(f"{kept}.value") == "draft"
    press(page, pane("csv", "trained, edited"), "Save")
    page.wait(f"{pane('csv', 'trained, edited')}.querySelector('textarea') === null")
    saved = [one.completion for one in read_predictions(made_run.evaluation / "trained" / "edited.jsonl")]
    assert {"draft", "a = 1"} <= set(saved)


def test_escape_leaves_an_answer_as_it_was(page: Browser, made_run: RunDirectory) -> None:
    open_first(page, "csv")
    page.wait(f"{pane('csv')}.querySelector('table')")
    press(page, pane("csv"), "Edit")
    page.run(f"{pane('csv')}.querySelector('textarea').value = 'changed'")
    page.press("Escape")
    page.wait(f"{pane('csv')}.querySelector('table')")
    assert not list(made_run.evaluation.glob("*/edited.jsonl"))


def test_the_address_bar_does_not_keep_the_token(page: Browser) -> None:
    assert "token" not in page.run("location.href")
    assert page.run("document.cookie") == ""


def test_a_link_of_another_site_with_the_token_opens_the_page(
    browser: Browser, made_run: RunDirectory, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "terminal.html"
    with serving(made_run) as port:
        link = f'<a href="http://127.0.0.1:{port}/?token={TOKEN}">open</a>'
        elsewhere.write_text(f'<html data-ready="yes">{link}</html>', encoding="utf-8")
        browser.open(elsewhere.as_uri())
        browser.run("document.querySelector('a').click()")
        browser.wait("document.querySelectorAll('.item').length === 20")
        assert "token" not in browser.run("location.href")


def test_a_page_whose_viewer_has_ended_says_so(browser: Browser, made_run: RunDirectory) -> None:
    with viewing(made_run) as (_, address):
        browser.open(address)
        open_first(browser, "toml")
        press(browser, pane("toml"), "Edit")
    browser.run(f"{pane('toml')}.querySelector('textarea').value = 'lost = 1'")
    press(browser, pane("toml"), "Save")
    browser.wait("document.getElementById('trouble').textContent.includes('still run')")
    assert browser.run(f"{pane('toml')}.querySelector('textarea').value") == "lost = 1"


def test_ctrl_c_ends_it_with_one_line(made_run: RunDirectory) -> None:
    with viewing(made_run) as (process, address):
        port = int(re.findall(r":(\d+)/\?token=[\w-]{32}$", address)[0])
        with socket.create_connection(("127.0.0.1", port)):  # a browser keeps its connection open
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "error: stopped by Ctrl-C\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("nothing", "there is no such folder"),
        ("no config", "no config.toml"),
        ("no answers", "no tasks and predictions in"),
        ("control", "it is a run of `evaluate control`"),
        ("stages", "the run has stages; name one of them: "),
        ("torn", "predictions.jsonl:20: not JSON"),
        ("port", "--port 70000: expected a number"),
        ("taken", "Address already in use; name another port"),
    ],
)
def test_what_cannot_be_viewed_is_told_in_one_message(
    made: Callable[..., RunDirectory], capsys: pytest.CaptureFixture[str], change: str, told: str
) -> None:
    run = made({"base": [["right"]]})
    predictions = run.evaluation / "base" / "predictions.jsonl"
    arguments, taken = [str(run.path)], socket.create_server(("127.0.0.1", 0))
    if change == "nothing":
        run.path.rename(run.path.with_name("elsewhere"))
    elif change == "no config":
        run.config.unlink()
    elif change == "torn":
        predictions.write_bytes(predictions.read_bytes()[:-9])
    elif change == "port":
        arguments += ["--port", "70000"]
    elif change == "taken":
        arguments += ["--port", str(taken.getsockname()[1])]
    else:
        if change == "control":
            (run.path / "control").mkdir()
        elif change == "stages":
            run.stages.joinpath("1-a", "evaluation").mkdir(parents=True)
            run.stages.joinpath("1-a", "evaluation", "tasks.jsonl").touch()
        predictions.unlink()
    code = run_command(_main, ["view", *arguments])
    taken.close()
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("error: ")) == (2, "", 1)
    assert told in said.err


def test_help_and_a_mistake_are_told_without_torch(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("tanren.common.cli", "view", "--help")
    assert (done.code, done.heavy) == (0, "")
    assert "--port" in done.out
    done = command("tanren.common.cli", "view", str(tmp_path))
    assert (done.code, done.heavy) == (2, "")
