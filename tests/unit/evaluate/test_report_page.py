"""The report in a real browser: what it lists, filters and shows, without a network and without a script of a model's."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tanren.common.run import RunDirectory
from tanren.evaluate.report import write_report
from tests.browser import Browser

SHOWN = "[...document.querySelectorAll('.item')].map((one) => one.dataset.id)"


def choose(browser: Browser, name: str, value: str) -> None:
    """Set a filter as a hand does."""
    script = f"""(() => {{ const field = document.getElementById('filters').elements[{json.dumps(name)}];
      field.value = {json.dumps(value)}; field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"""
    browser.run(script)
    browser.run(f"new Promise((done) => setTimeout(done, {160 if name == 'q' else 20}))")


def count(browser: Browser) -> str:
    return str(browser.run("document.getElementById('count').textContent"))


def open_item(browser: Browser, index: int) -> None:
    browser.run(f"document.querySelectorAll('.item')[{index}].open = true")
    browser.wait(f"document.querySelectorAll('.item')[{index}].querySelector('.panes')")


@pytest.fixture
def page(browser: Browser, made_run: RunDirectory) -> Browser:
    browser.open(write_report(made_run).as_uri())
    return browser


def test_the_page_fetches_nothing_and_runs_no_script_of_a_model(page: Browser) -> None:
    for index in range(20):
        open_item(page, index)
    assert page.run("window.owned") is None
    assert len(page.requested) == 1
    assert page.errors == []
    assert page.run("document.querySelectorAll('.item img, .item script').length") == 0
    assert "</script><script>window.owned" in page.run(
        "document.querySelector('[data-candidate=base] pre').textContent"
    )


def test_filters_count_what_the_table_counts(page: Browser) -> None:
    # base is right where i % 7 is 3 or 6; trained unless i % 4 is 3: gained and lost by hand
    right = [(i % 7 in (3, 6), i % 4 != 3) for i in range(20)]
    gained, lost = right.count((False, True)), right.count((True, False))
    facts = page.run("document.querySelector('.facts').textContent")
    assert f"{gained} / {lost}" in facts
    for change, number in (("improved", gained), ("worsened", lost), ("same", 20 - gained - lost)):
        choose(page, "change", change)
        assert count(page) == f"{number} of 20 items"
    choose(page, "change", "all")
    choose(page, "group", "csv")
    assert count(page) == "4 of 20 items"
    assert all("-csv-" in one for one in page.run(SHOWN))


def test_verdicts_kinds_and_text_are_searched(page: Browser) -> None:
    choose(page, "to", "base")
    choose(page, "kind", "cut at the token limit")
    assert count(page) == f"{sum(i % 7 in (1, 4, 5) for i in range(20))} of 20 items"
    page.run("document.querySelector('#filters button[type=reset]').click()")
    page.wait("document.getElementById('count').textContent === '20 of 20 items'")
    choose(page, "q", "WINDOW.owned")
    assert count(page) == "3 of 20 items"
    choose(page, "q", page.run(SHOWN)[1])
    assert count(page) == "1 of 20 items"


def test_a_number_of_the_table_of_failures_shows_its_items(page: Browser) -> None:
    found = "[...document.querySelectorAll('[data-kind]')].find((one) => one.dataset.candidate === 'trained')"
    number = page.run(f"Number({found}.textContent)")
    page.run(f"{found}.click()")
    page.wait(f"document.getElementById('count').textContent === '{number} of 20 items'")


def test_an_item_shows_prompt_expected_text_and_every_answer_and_marks_differences(page: Browser) -> None:
    page.run("document.getElementById('filters').elements.diff.click()")
    open_item(page, 2)
    panes = page.run(
        "[...document.querySelectorAll('.item')[2].querySelectorAll('.pane h3')].map((one) => one.textContent)"
    )
    assert [pane.split()[0] for pane in panes] == ["prompt", "expected", "base", "trained"]
    marked = page.run(
        "[...document.querySelectorAll('.item')[2].querySelectorAll('[data-candidate=base] pre > *')].map((one) => one.tagName)"
    )
    assert set(marked) == {"INS", "DEL"}
    assert (
        page.run("document.querySelectorAll('.item')[2].querySelectorAll('[data-candidate=trained] pre > *').length")
        == 0
    )


def test_the_state_of_the_filters_is_in_the_address(page: Browser) -> None:
    choose(page, "change", "improved")
    open_item(page, 0)
    page.run("new Promise((done) => setTimeout(done, 100))")
    first, address = page.run(SHOWN)[0], page.run("location.href")
    page.open(address)
    assert page.run("document.getElementById('filters').elements.change.value") == "improved"
    assert page.run("document.querySelector('.item[open]').dataset.id") == first


def test_keys_alone_open_an_item(page: Browser) -> None:
    page.run("document.querySelector('.item summary').focus()")
    page.press("Enter")
    page.wait("document.querySelector('.item').open")


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_needs_no_sideways_scrolling_in_either_scheme(
    browser: Browser, made_run: RunDirectory, dark: bool
) -> None:
    browser.open(write_report(made_run).as_uri(), width=360, height=800, dark=dark)
    for index in range(5):
        open_item(browser, index)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    light = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((one) => one > 200)")
    assert light is not dark


CONTRAST = """(() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const found = colour(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
  };
  const texts = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() &&
    !one.closest('svg') && [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return texts.map((one) => {
    const [a, b] = [light(colour(getComputedStyle(one).color)), light(behind(one))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.tagName + '.' + one.className];
  }).sort((a, b) => a[0] - b[0])[0]; })()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_either_scheme_and_every_field_has_a_label(
    browser: Browser, made_run: RunDirectory, dark: bool
) -> None:
    browser.open(write_report(made_run).as_uri(), dark=dark)
    browser.run("document.getElementById('filters').elements.diff.click()")
    for index in range(4):
        open_item(browser, index)
    least, where = browser.run(CONTRAST)
    assert least >= 4.5, where  # WCAG 2.2, 1.4.3 (AA)
    unnamed = "[...document.querySelectorAll('input, select, button')].filter((one) => !(one.labels?.length || one.textContent))"
    assert browser.run(f"{unnamed}.length") == 0
    assert browser.run(
        "[...document.querySelectorAll('svg')].every((one) => one.closest('[aria-label], [aria-hidden]'))"
    )


def test_thousands_of_items_are_drawn_a_part_at_a_time(browser: Browser, made: Callable[..., RunDirectory]) -> None:
    run = made({"base": [["cut"]], "trained": [["right", "cut"]]}, rows=1000)
    browser.open(write_report(run).as_uri())
    assert count(browser) == "1000 of 1000 items"
    assert browser.run("document.querySelectorAll('.item').length") <= 80
    choose(browser, "change", "improved")
    assert count(browser) == "500 of 1000 items"
    browser.run("document.getElementById('more').click()")
    assert browser.run("document.querySelectorAll('.item').length") >= 80


def test_a_packs_other_readings_stand_beside_its_own(browser: Browser, made: Callable[..., RunDirectory]) -> None:
    browser.open(write_report(made({"base": [["fenced", "right"]]})).as_uri())
    found = browser.run(
        "[...document.querySelectorAll('.card')].find((one) => one.textContent.includes('other readings')).textContent"
    )
    assert "lenient" in found
    assert "100 [84-100]" in found  # a fence is lenient
    assert "50 [30-70]" in found  # and not strict


def test_one_candidate_needs_no_comparison(browser: Browser, made: Callable[..., RunDirectory]) -> None:
    browser.open(write_report(made({"base": [["right", "cut"]]})).as_uri())
    assert browser.run(
        "[...document.querySelectorAll('.of-pair')].every((one) => getComputedStyle(one).display === 'none')"
    )
    choose(browser, "verdict", "correct")
    assert count(browser) == "10 of 20 items"
    assert browser.errors == []


def test_samples_and_many_candidates_stand_side_by_side(browser: Browser, made: Callable[..., RunDirectory]) -> None:
    run = made(
        {
            "base": [["cut"], ["cut"], ["right", "cut"]],
            "small": [["right"], ["right"], ["cut"]],
            "large": [["right"], ["right"], ["right"]],
        },
        evaluation={"second": "small"},
    )
    browser.open(write_report(run).as_uri())
    text = browser.run("document.body.textContent")
    assert "pass@2" in text
    assert "Ranking" in text
    open_item(browser, 0)
    assert browser.run("document.querySelectorAll('.item')[0].querySelectorAll('.pane').length") == 2 + 9
    assert "2/3 correct" in browser.run("document.querySelector('.item summary').textContent")
    assert browser.run("document.getElementById('filters').elements.to.value") == "small"
    choose(browser, "to", "large")
    choose(browser, "change", "improved")
    assert count(browser) == "20 of 20 items"
