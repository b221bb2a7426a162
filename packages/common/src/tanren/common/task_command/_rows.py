"""Checks of rows: their form, their splits, that they come again, that they survive being written, that they render."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from tanren.common.task_command._finding import Broken
from tanren.common.task_contract import Message, Row, Split
from tanren.common.task_packs import TaskPack

POOLED = "all"  # the pooled row of every table (tanren.evaluate.scoring)
# The digest of another process with another order of sets, in which nothing of this one's state is left.
_CHILD = """
import sys
from tanren.common.task_command._rows import digest_of
from tanren.common.task_packs import load_pack
pack = load_pack(sys.argv[1])
print(digest_of(pack.rows("train")), digest_of(pack.rows("heldout")))
"""


def check_rows(rows: Sequence[Row], split: Split) -> None:
    """Raise Broken unless the rows have the form of the contract; TaskPack.rows has looked at the ids."""
    if not rows:
        raise Broken(f"no rows of {split} with the default options; expected some")
    for row in rows:
        wrong = _fault(row)
        if wrong:
            raise Broken(f"row {row.id!r} of {split}: {wrong}")


def _fault(row: Row) -> str:
    if not isinstance(row.id, str) or not row.id:
        return f"its id is {row.id!r}, expected text"
    if not isinstance(row.group, str) or row.group in ("", POOLED):
        return f"its group is {row.group!r}, expected a label; {POOLED!r} is the pooled row of every table"
    if row.segments:
        return "" if any(segment.learned for segment in row.segments) else "none of its segments is learned"
    return _fault_of_turns(row)


def _fault_of_turns(row: Row) -> str:
    if not row.prompt or not all(isinstance(turn, Message) and isinstance(turn.content, str) for turn in row.prompt):
        return "its prompt is no tuple of Message(role, content), expected the turns before the answer"
    if row.prompt[-1].role != "user":
        return f"its last turn is of {row.prompt[-1].role!r}, expected 'user'"
    if not isinstance(row.reference, str) or not row.reference.strip():
        return f"its reference is {row.reference!r}, expected the answer to learn, as text"
    return ""


def check_apart(splits: Mapping[Split, Sequence[Row]]) -> str:
    """Raise Broken where a prompt is in both splits."""
    trained = {_asked(row): row.id for row in splits["train"]}
    for row in splits["heldout"]:
        if _asked(row) in trained:
            raise Broken(
                f"row {row.id!r} of heldout has the prompt of {trained[_asked(row)]!r} of train; decide the split by a hash of the "
                "content"
            )
    return "no held-out prompt is trained on"


def _asked(row: Row) -> tuple[Message | str, ...]:
    """Return what a row shows before the answer: its turns, or the text of a row of segments."""
    return row.prompt or tuple(segment.text for segment in row.segments)


def check_repeatable(pack: TaskPack, splits: Mapping[Split, Sequence[Row]]) -> str:
    """Raise Broken unless the same options give the same rows, here and in a process with another order of sets."""
    for split, rows in splits.items():
        again = pack.rows(split)
        differing = next((one.id for one, other in zip(rows, again, strict=False) if one != other), None)
        if differing is not None or len(again) != len(rows):
            raise Broken(
                f"{split}: a second call gives other rows, the first at {differing!r}; expected the same for the same options: "
                "seed a random.Random of your own"
            )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(pack.folder)],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Broken(f"making the rows in another process failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    for (split, rows), digest in zip(splits.items(), done.stdout.split(), strict=True):
        if digest != digest_of(rows):
            raise Broken(
                f"{split}: another process gives other rows; expected the same: they must depend neither on the order of a set, "
                "nor on the clock, nor on the global random generator"
            )
    return "the same rows again, in another process too"


def digest_of(rows: Sequence[Row]) -> str:
    """Return a hash of all that rows hold."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(asdict(row), sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_json(pack: TaskPack, splits: Mapping[Split, Sequence[Row]]) -> str:
    """Raise Broken unless rows are judged the same after they were written and read: scoring reads them from tasks.jsonl."""
    for row in (row for rows in splits.values() for row in rows):
        try:
            back = json.loads(json.dumps([row.expected, dict(row.metadata)], allow_nan=False))
        except (TypeError, ValueError) as error:
            raise Broken(f"row {row.id!r}: expected or metadata cannot be written as JSON: {error}") from None
        read = replace(row, expected=back[0], metadata=back[1])
        before, after = (pack.parse(row.reference, one).verdict for one in (row, read))
        if before is not after:
            raise Broken(
                f"row {row.id!r}: its reference is {before} before it is written as JSON and {after} after; expected the same: use "
                "values that JSON has (lists, no tuples; text keys)"
            )
    return "judged the same after being written and read"


def check_prompts(rows: Sequence[Row]) -> str:
    """Raise UserError or Broken unless a chat template renders the rows and keeps each prompt as the beginning."""
    from tanren.common.chat import WHOLE_LAST_TURN, render_conversation
    from tanren.common.models.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    longest = 0
    for row in rows:
        if not row.segments:
            rendered = render_conversation(tokenizer, row.messages, WHOLE_LAST_TURN, f"row {row.id!r}")
            longest = max(longest, len(rendered.text))
    return f"{len(rows)} rows by a chat template; the longest has {longest} characters"
