"""`evaluate compare RUN RUN ...`: candidates of several runs on the same items, ranked; without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack, load_pack
from tanren.common.workspace import sha256_of
from tanren.evaluate.control import compare_controlled, is_controlled
from tanren.evaluate.evaluator import PREDICTIONS, TASKS, vote_key_of
from tanren.evaluate.listing import candidate_names
from tanren.evaluate.measures import answers_of, pack_differences, pack_scores, pack_tables
from tanren.evaluate.modes import modes_of
from tanren.evaluate.predictions import read_predictions, read_tasks
from tanren.evaluate.ranking import check_rank_by, choice_warning, rank, select, standings
from tanren.evaluate.scoring import Judged, compare, judge, score

_LISTED = 5


@dataclass(frozen=True)
class _Stored:
    """The predictions of one candidate of a run."""

    run: RunDirectory
    path: Path

    @property
    def name(self) -> str:
        return f"{self.run.path.name}/{self.path.parent.name}"


def compare_command(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    allow_other_prompts: tyro.conf.FlagCreatePairsOff[bool] = False,
    selection: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.0,
    seed: int = 0,
    rank_by: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    as_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False,
) -> int:
    """Compare what several runs have left on the same items, and rank it; nothing is generated.

    All candidates of all runs take part, those with the very same predictions once. Items are joined by their ids.

    Args:
        runs: Run directories (of evaluate, train-sft or train-grpo), or folders of single candidates in them; or runs of
            evaluate control, which are compared week by week.
        allow_other_prompts: Compare all the same where items have the same ids, but the models read other prompts.
        selection: Share of the items on which the best is chosen; it is reported on the others. 0: nothing is chosen.
        seed: Of the split of `selection`.
        rank_by: What they are ranked and chosen by: correct, valid, or a mode of the pack. Not set: correct where every item can be compared
            with something, else valid.
        as_json: Print one JSON object instead of the tables.
    """
    if not 0 <= selection < 1:
        raise UserError(f"--selection {selection:g}: expected at least 0 and below 1")
    if seed and not selection:
        raise UserError(f"--seed {seed} has no effect without --selection; leave it out")
    controlled = [one for one in runs if is_controlled(one)]
    if controlled:
        _check_controlled(
            runs, controlled, allow_other_prompts=allow_other_prompts, selection=selection, rank_by=rank_by
        )
        return compare_controlled(runs, as_json=as_json)
    stored = [one for named in runs for one in _find(named)]
    kept, notes = _without_repeats(stored)
    if len(kept) < 2:
        raise UserError(
            f"{len(kept)} candidate{'s' * (len(kept) != 1)} to compare; name at least two runs, or one with several candidates"
        )
    first = kept[0]
    rows = read_tasks(first.run.evaluation / TASKS)
    pack = _pack(first.run)
    for one in kept[1:]:
        _check_same(first, one, rows)
    check_rank_by(pack, rows, rank_by)
    judged = {one.name: judge(rows, read_predictions(one.path), pack.parse, str(one.path)) for one in kept}
    _check_samples(judged)
    notes += _check_prompts(judged, allowed=allow_other_prompts)
    ranked = standings(judged, pack, rank_by)
    result = _result(judged, pack) | {"ranking": rank(ranked)}
    if selection:
        result["selection"] = select(ranked, selection, seed, first.name)
    elif warning := choice_warning(len(judged)):
        notes.append(f"warning: {warning} (--selection 0.3)")
    for note in notes:
        sys.stderr.write(f"{note}\n")
    if as_json:
        json.dump(result | {"notes": notes}, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("\n".join(_tables(result)) + "\n")
    return 0


def _check_controlled(
    runs: Sequence[Path],
    controlled: Sequence[Path],
    *,
    allow_other_prompts: bool,
    selection: float,
    rank_by: str | None,
) -> None:
    """Refuse what does not go together with runs of `evaluate control`."""
    others = [one for one in runs if one not in controlled]
    if others:
        raise UserError(
            f"{controlled[0]} is a run of evaluate control, and {others[0]} is none: they cannot be compared"
        )
    flags = {"--allow-other-prompts": allow_other_prompts, "--selection": selection, "--rank-by": rank_by}
    for flag, given in flags.items():
        if given:
            raise UserError(f"{flag} has no effect on runs of evaluate control; leave it out")


def _find(named: Path) -> list[_Stored]:
    """Return the candidates that an argument names. Raises UserError where there is none."""
    path = named.expanduser()
    if (path / PREDICTIONS).is_file() and (path.parent / TASKS).is_file():
        return [_Stored(RunDirectory(path.parent.parent), path / PREDICTIONS)]
    run = RunDirectory(path)
    if not (run.evaluation / TASKS).is_file() or not run.config.is_file():
        raise UserError(
            f"{named}: no evaluation there ({run.evaluation / TASKS} and {run.config.name} are needed); name a run directory that was "
            "evaluated, or a candidate's folder in one"
        )
    found = [_Stored(run, run.evaluation / name / PREDICTIONS) for name in candidate_names(run.evaluation)]
    missing = [one.name for one in found if not one.path.is_file()]
    if missing or not found:
        raise UserError(
            f"{named}: not all candidates have their {PREDICTIONS} ({', '.join(missing) or 'there is none'}); finish the run with --resume, or "
            "name the folders of those that have"
        )
    return found


def _without_repeats(stored: Sequence[_Stored]) -> tuple[list[_Stored], list[str]]:
    """Leave out candidates with the very predictions of another: the base model of several runs, as a rule."""
    kept: dict[str, _Stored] = {}
    notes = []
    for one in stored:
        same = kept.setdefault(sha256_of(one.path), one)
        if same is not one:
            notes.append(f"{one.name}: the same predictions as {same.name}, taken once")
    names = [one.name for one in kept.values()]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(
            f"two candidates are named {', '.join(doubled)}: their run directories have one name; rename one"
        )
    return list(kept.values()), notes


def _pack(run: RunDirectory) -> TaskPack:
    task = run.read_config()["task"]
    return load_pack(task["name"], task.get("options"))


def _check_same(first: _Stored, other: _Stored, rows: Sequence[Row]) -> None:
    """Refuse other items: a difference would be that of the items, not of the candidates."""
    ours, theirs = first.run.read_config()["task"]["name"], other.run.read_config()["task"]["name"]
    if ours != theirs:
        raise UserError(
            f"{first.name} answers the task pack {ours}, {other.name} the pack {theirs}: they cannot be compared"
        )
    mine = {row.id: row for row in rows}
    others = {row.id: row for row in read_tasks(other.run.evaluation / TASKS)}
    for what, ids in (
        ("only in the first", [one for one in mine if one not in others]),
        ("only in the second", [one for one in others if one not in mine]),
        ("with another content", [one for one in mine if one in others and mine[one] != others[one]]),
    ):
        if ids:
            raise UserError(
                f"{first.name} ({len(mine)} items) and {other.name} ({len(others)}) have not answered the same items: {len(ids)} {what} "
                f"({', '.join(ids[:_LISTED])}{', ...' if len(ids) > _LISTED else ''}); evaluate both with the same task options"
            )


def _check_prompts(judged: Mapping[str, Sequence[Judged]], *, allowed: bool) -> list[str]:
    """Refuse candidates that read other prompts for the same items, unless it is allowed; then say it."""
    hashes = {name: [item.prediction.prompt_hash for item in items] for name, items in judged.items()}
    first, *others = hashes
    told = []
    for name in others:
        differing = sum(ours != theirs for ours, theirs in zip(hashes[first], hashes[name], strict=True))
        if differing:
            told.append(f"{name} read other prompts than {first} for {differing} of {len(hashes[name])} items")
    if told and not allowed:
        raise UserError(
            f"{'; '.join(told)} (another chat template, or a server that renders them): a difference may be that of the prompts; compare "
            "all the same with --allow-other-prompts"
        )
    return told


def _check_samples(judged: Mapping[str, Sequence[Judged]]) -> None:
    samples = {name: len(items[0].samples) for name, items in judged.items()}
    if len(set(samples.values())) > 1:
        told = ", ".join(f"{name}: {count}" for name, count in samples.items())
        raise UserError(f"the candidates have different numbers of samples ({told}); compare those that have the same")


def _result(judged: Mapping[str, list[Judged]], pack: TaskPack) -> dict[str, Any]:
    first, *others = judged
    return {
        "task": pack.description.name,
        "group": pack.description.group,
        "candidates": {
            name: score(items, vote_key_of(pack)) | pack_scores(pack, answers_of(items))
            for name, items in judged.items()
        },
        "reference": first,
        "differences": {name: compare(judged[first], judged[name]) for name in others},
        "measures_differences": {
            name: pack_differences(pack, answers_of(judged[first]), answers_of(judged[name])) for name in others
        },
        "modes": {name: modes_of(pack, items) for name, items in judged.items()},
    }


def _tables(result: Mapping[str, Any]) -> list[str]:
    from tanren.evaluate.table import (
        candidate_modes_table,
        candidates_table,
        ranking_table,
        samples_table,
        selection_line,
        shown_metrics,
    )

    scores = result["candidates"]
    tables = [
        candidates_table(result["group"], scores, "as generated", metric, "items") for metric in shown_metrics(scores)
    ]
    tables.append(ranking_table(result["ranking"], scores))
    if "samples" in next(iter(scores.values())):
        tables.append(samples_table(scores))
    if len(shown_metrics(scores)) > 1 and any(result["modes"].values()):
        tables.append(candidate_modes_table(result["modes"]))
    differences = list(result["measures_differences"].values())
    tables += pack_tables(result["task"], scores, differences[0] if len(differences) == 1 else None)
    if "selection" in result:
        tables.append(selection_line(result["selection"]))
    return tables
