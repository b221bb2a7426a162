"""Actions are read by one rule; the rows of a value file have the prompts that were meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.actions import find_action, judge_action
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Verdict
from tanren.common.values import prompt_messages, value_rows, values_of

ROOT = Path(__file__).resolve().parents[3]
HARMONY = "<|channel|>analysis<|message|>[0] or [1]?<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("completion", "action"),
    [
        ("[2]", 2),
        ("  [ 2 ]  \n\n", 2),
        ("[0]\n[3]", 3),
        ("First [0], then [1]", 1),
        ("The state [3] is full.\nSo: [1].", 1),
        ("[2]\nbecause of the forecast", None),
        ("[4]", None),
        ("[-1]", None),
        ("[1.5]", None),
        ("2", None),
        ("", None),
        ("[٣]", None),
        (HARMONY + "[2]<|return|>", 2),
        (HARMONY + "[2]", 2),
        (HARMONY + "", None),
        (HARMONY + "[1]<|end|><|start|>assistant<|channel|>final<|message|>[3]<|return|>", 3),
        (HARMONY.replace("<|message|>[0]", " <|constrain|>json<|message|>[0]") + "[1]", 1),
        ("<|channel|>analysis<|message|>I take [2]", None),
        ("analysisWe take [1].assistantfinal[2]", 2),
        ("analysisWe take [1].", None),
        ("analysis of the day: [1]", 1),
        ("<think>[0]?</think>\n\n[1]", 1),
        ("<think>[0]? so [1]", None),
        ("[0]? so </think>[1]", 1),
    ],
)
def test_the_action_is_the_last_bracket_of_the_last_line_of_the_answer(completion: str, action: int | None) -> None:
    found, why = find_action(completion, 4)
    assert found == action
    assert (why == "") == (action is not None)


def test_verdicts_tell_what_was_wrong() -> None:
    assert judge_action("[2]", 4, [1, 2]).verdict is Verdict.CORRECT
    wrong = judge_action("[0]", 4, [1, 2])
    assert (wrong.verdict, wrong.value, wrong.error) == (Verdict.WRONG, 0, "found [0], expected [1] or [2]")
    assert judge_action("[7]", 4, [1]).verdict is Verdict.UNPARSABLE
    assert judge_action("off", 4, [1]).error == "the last line has no [action]"
    assert judge_action("<|channel|>analysis<|message|>[1]", 4, [1]).error == "the final channel was not reached"


_PIECES = ("[", "]", "0", "3", "9", " ", "\n", "<think>", "</think>", "<|channel|>", "final", "<|message|>", "x")


@given(st.lists(st.sampled_from(_PIECES)).map("".join))
def test_any_text_gives_an_action_in_range_or_a_reason(completion: str) -> None:
    action, why = find_action(completion, 4)
    assert (action is None) == bool(why)
    assert action is None or 0 <= action < 4


@given(st.text(), st.integers(0, 3))
def test_an_answer_on_a_line_of_its_own_is_found_behind_any_reasoning(reasoning: str, action: int) -> None:
    assert find_action(f"<think>{reasoning.replace('<', '')}</think>\n[{action}]\n", 4)[0] == action


def test_old_prompts_are_taken_apart_into_the_same_turns() -> None:
    lines = "system: Be brief.\nsystem: ASCII only.\nuser: Now?\nLater: no."
    rendered = (
        "<|start|>system<|message|>You are ChatGPT, a model.\nReasoning: medium<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe brief.\nASCII only.\n\n<|end|>"
        "<|start|>user<|message|>Now?\nLater: no.<|end|><|start|>assistant"
    )
    turns = (Message("system", "Be brief.\nASCII only."), Message("user", "Now?\nLater: no."))
    assert prompt_messages(lines, "x") == prompt_messages(rendered, "x") == turns
    assert prompt_messages("Which? user: me", "x") == (Message("user", "Which? user: me"),)
    conversation = "user: a\nassistant: b\nuser: c"
    assert [turn.role for turn in prompt_messages(conversation, "x")] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  ", "found nothing, expected a prompt"),
        ("<|start|>user<|message|>Now?<|end|>", "is no prompt as gpt-oss's template writes it"),
        ("<|start|>user<|message|>Now?<|start|>assistant", "is no prompt as gpt-oss's template writes it"),
        ("user: a\nassistant: b", "expected the user's as the last one"),
        ("system: a", "expected the user's as the last one"),
    ],
)
def test_a_prompt_that_is_none_is_told(text: str, told: str) -> None:
    with pytest.raises(UserError, match=r"q\.csv:3: column prompt: ") as caught:
        prompt_messages(text, "q.csv:3")
    assert told in str(caught.value)


def test_rows_of_a_value_file_carry_values_best_action_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text(
        "id,prompt,week,q_action_0,q_action_1\na,user: Now?,0407,-2,-1\nb,Then?,0407,3,3\n", encoding="utf-8"
    )
    first, second = value_rows(file)
    assert first.prompt == (Message("user", "Now?"),)
    assert (first.id, first.reference, first.expected) == ("a", "[1]", 1)
    assert dict(first.metadata) == {"id": "a", "week": "0407", "action_values": [-2.0, -1.0]}
    assert (second.expected, values_of(second)) == (0, [3.0, 3.0])
    file.write_text("q_action_0,q_action_1\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="the column 'prompt' is missing"):
        value_rows(file)


@pytest.mark.parametrize("values", [None, [1.0], [1.0, float("nan")], "12", [1, "x"]])
def test_a_row_whose_values_are_none_is_told(values: object) -> None:
    with pytest.raises(UserError, match=r"row r: metadata\.action_values is"):
        values_of(Row("r", (), "", "all", metadata={"action_values": values}))


def test_both_forms_of_the_old_data_give_the_same_turns() -> None:
    for place in (ROOT.parent / "shared", ROOT.parent.parent / "shared"):
        folder = place / "data" / "tes-q-dataset"
        if folder.is_dir():
            break
    else:
        pytest.skip("no shared/data/tes-q-dataset beside the checkout")
    name = "dynamic_co2_factor_hourly_3day_0414_to_0416_q_dataset"
    legacy, harmony = value_rows(folder / f"{name}.csv"), value_rows(folder / f"{name}_harmony.csv")
    assert [row.prompt[0] for row in legacy] == [row.prompt[0] for row in harmony]
    assert len(legacy) == len(harmony) == 30
    assert all(row.prompt[1].content.startswith("Objective:") for row in (*legacy, *harmony))
    assert not any("<|" in row.prompt[1].content for row in harmony)
