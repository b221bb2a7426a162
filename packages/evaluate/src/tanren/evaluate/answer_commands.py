"""`evaluate score` and `evaluate submit`: what can be done with stored answers, without a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from tanren.common.errors import UserError
from tanren.common.task_packs import load_pack

_TASKS = "tasks.jsonl"


def score_command(
    pack: tyro.conf.Positional[str],
    predictions: tyro.conf.Positional[Path],
    tasks: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Score answers again, without generating.

    Args:
        pack: The task pack whose parser judges.
        predictions: A predictions.jsonl, or a submission: a JSON list of {"task_id", "generation"}.
        tasks: The tasks that they answer: a tasks.jsonl, or a benchmark's JSON list where the pack reads one; not given: the
            tasks.jsonl beside the candidate's folder.
        as_json: Print one JSON object instead of the tables.
    """
    from tanren.evaluate.evaluator import vote_key_of
    from tanren.evaluate.measures import answers_to, pack_scores, pack_tables
    from tanren.evaluate.modes import pack_modes
    from tanren.evaluate.predictions import Prediction, join
    from tanren.evaluate.scoring import judge, score
    from tanren.evaluate.submission import read_answers
    from tanren.evaluate.table import modes_table, samples_table, score_table
    from tanren.evaluate.task_list import read_task_list

    loaded = load_pack(pack)
    answers = read_answers(predictions)
    path = tasks or predictions.parent.parent / _TASKS
    if tasks is None and not path.is_file():
        raise UserError(f"no tasks at {path}; name the tasks that the predictions answer with --tasks FILE")
    listed = read_task_list(loaded, path)
    rows = listed.rows
    pairs = join(rows, answers, str(predictions))
    values: dict[str, Any] = {}
    tables: list[str] = []
    if not listed.outside:
        made = [answer for answer in answers if isinstance(answer, Prediction)]
        if len(made) < len(answers):
            raise UserError(
                f"{predictions}: a submission, and {path} are rows of the pack {loaded.description.name}; score the "
                "predictions.jsonl, which also says what was cut"
            )
        values |= score(judge(rows, made, loaded.parse, str(predictions)), vote_key_of(loaded))
        tables.append(score_table(loaded.description.group, values, str(predictions)))
        if "samples" in values:
            tables.append(samples_table({predictions.parent.name: values}))
    own = pack_scores(loaded, answers_to([(row, answer.completion) for row, answer in pairs]))
    values |= own
    tables += pack_tables(loaded.description.name, {str(predictions): own})
    first = [answer.completion for _, answer in pairs if getattr(answer, "sample", 0) == 0]
    modes = pack_modes(loaded, first, rows)
    if modes:
        values |= modes
        tables.append(modes_table(loaded.description.group, modes, str(predictions)))
    if as_json:
        json.dump(values, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("\n".join(tables) + "\n")
    return 0


def submit_command(
    pack: tyro.conf.Positional[str],
    predictions: tyro.conf.Positional[Path],
    tasks: Path,
    out: Path | None = None,
) -> int:
    """Write a submission, a JSON list of {"task_id", "generation"} in the order of the tasks; without --out, check one.

    Args:
        pack: The task pack that reads the tasks.
        predictions: A predictions.jsonl, or a submission.
        tasks: The tasks: a tasks.jsonl, or a benchmark's JSON list where the pack reads one.
        out: The file to write; it must not be there.
    """
    from tanren.evaluate.predictions import join
    from tanren.evaluate.submission import Entry, check_order, read_answers, write_submission
    from tanren.evaluate.task_list import read_task_list

    rows = read_task_list(load_pack(pack), tasks).rows
    answers = read_answers(predictions)
    pairs = join(rows, answers, str(predictions))
    if len(pairs) > len(rows):
        raise UserError(
            f"{predictions}: {len(pairs) // len(rows)} samples of each task, and a submission has one answer; generate with samples = 1"
        )
    if out is None:
        if not isinstance(answers[0], Entry):
            raise UserError(f"{predictions}: predictions, not a submission; name the file to write with --out FILE")
        check_order(rows, answers, str(predictions))
        sys.stdout.write(f"{predictions}: {len(rows)} entries, in the order of {tasks}\n")
        return 0
    write_submission(out, [Entry(row.id, answer.completion) for row, answer in pairs])
    cut = sum(getattr(answer, "finish_reason", "stop") == "length" for answer in answers)
    empty = sum(not answer.completion.strip() for answer in answers)
    sys.stdout.write(
        f"{out}: {len(rows)} entries, in the order of {tasks}; {cut} cut at max_new_tokens, {empty} empty\n"
    )
    return 0
