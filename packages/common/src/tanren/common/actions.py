"""One rule by which an action is read from a completion: in training, in evaluation, in control.

1. Only the answer counts, not the reasoning. In Harmony (gpt-oss) that is the last message of the channel `final`; a
   completion that never reached it has no answer. It is recognised with its special tokens, and without them
   (`analysis...assistantfinal[2]`). In other formats it is what stands behind the last `</think>`, if there is one; a
   `<think>` that was not closed leaves no answer.
2. Of the answer only the last line that is not blank counts.
3. Of that line the last `[index]` is the action. Without one, there is none; one out of range is none either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tanren.common.task_contract import Parsed, Verdict

_FINAL = re.compile(r"<\|channel\|>final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_END = re.compile(r"<\|(?:return|end|start|call|channel)\|>")
# A tokenizer that leaves out special tokens writes a message's header and its text without a space between them.
_BARE = re.compile(r"\A(?:analysis|commentary)(?=\S)")
_BARE_FINAL = "assistantfinal"
_ACTION = re.compile(r"\[[ \t]*([0-9]{1,9})[ \t]*\]")


def find_answer(completion: str) -> tuple[str, str]:
    """Return the answer without the reasoning, and why there is none ("" where there is one)."""
    if "<|channel|>" in completion:
        finals = list(_FINAL.finditer(completion))
        if not finals:
            return "", "the final channel was not reached"
        text = completion[finals[-1].end() :]
        end = _END.search(text)
        return (text[: end.start()] if end else text), ""
    if _BARE.match(completion):
        _, found, text = completion.rpartition(_BARE_FINAL)
        return (text, "") if found else ("", "the final channel was not reached")
    _, closed, text = completion.rpartition("</think>")
    if "<think>" in text:
        return "", "the reasoning was not closed"
    return text if closed else completion, ""


def find_action(completion: str, actions: int) -> tuple[int | None, str]:
    """Return the action (0 to actions - 1) by the module's rule, or None and why there is none."""
    answer, why = find_answer(completion)
    if why:
        return None, why
    line = answer.rstrip().rpartition("\n")[2]
    found = _ACTION.findall(line)
    if not found:
        return None, "the last line has no [action]" if line.strip() else "nothing was written"
    if int(found[-1]) >= actions:
        return None, f"found [{found[-1]}], expected an action from 0 to {actions - 1}"
    return int(found[-1]), ""


def judge_action(completion: str, actions: int, best: Sequence[int]) -> Parsed:
    """Judge a completion whose answer is an action: correct if it is one of the best ones.

    Absent: there is no `[index]` where the rule looks for it. Unparsable: its index is out of range.
    """
    action, why = find_action(completion, actions)
    if action is None:
        return Parsed(Verdict.UNPARSABLE if why.startswith("found ") else Verdict.ABSENT, error=why)
    if action in best:
        return Parsed(Verdict.CORRECT, action)
    return Parsed(Verdict.WRONG, action, f"found [{action}], expected {' or '.join(f'[{one}]' for one in best)}")
