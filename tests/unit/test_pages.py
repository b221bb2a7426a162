"""The pages for people: their links lead somewhere, and the pack that they show works as it is printed."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from tanren.common.task_contract import Row, Verdict
from tanren.common.task_packs import TaskPack, load_pack

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/**/*.md"), ROOT.glob("tasks/*/README.md")))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> TaskPack:
    """The pack of docs/tasks.md, written to a folder as the page says."""
    folder = tmp_path_factory.mktemp("packs") / "sums"
    folder.mkdir()
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    for name, language in (("task.toml", "toml"), ("task.py", "python")):
        block = re.search(rf"`tasks/sums/{name}`:\n\n```{language}\n(.*?)```", text, re.DOTALL)
        assert block
        (folder / name).write_text(block[1], encoding="utf-8")
    return load_pack(str(folder), {"train_rows": 800})


def test_the_pack_that_the_page_shows_gives_rows_whose_own_answers_are_correct(sums: TaskPack) -> None:
    train, heldout = sums.rows("train"), sums.rows("heldout")
    assert (len(train), len(heldout)) == (800, 100)
    assert sums.rows("train") == train
    assert not {row.prompt for row in train} & {row.prompt for row in heldout}
    assert all(sums.parse(row.reference, row).verdict is Verdict.CORRECT for row in train + heldout)
    assert sums.module.reward([row.reference for row in train], train) == [1.0] * len(train)


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("", Verdict.ABSENT),
        ("forty", Verdict.ABSENT),
        ("It is 42", Verdict.UNPARSABLE),
        ("9" * 10, Verdict.UNPARSABLE),
        ("43", Verdict.WRONG),
        (" 42\n", Verdict.CORRECT),
    ],
)
def test_the_parser_that_the_page_shows_tells_the_four_verdicts_apart(
    sums: TaskPack, completion: str, verdict: Verdict
) -> None:
    row = Row(id="1", prompt=(), reference="42", group="without carry", expected=42)
    assert sums.parse(completion, row).verdict is verdict
