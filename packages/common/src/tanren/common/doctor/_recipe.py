"""Is there what a recipe names: its model, its data, its task pack? Only then is the network asked."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tanren.common.doctor._ask_hub import ANSWER, folder_files, is_complete, weights_bytes
from tanren.common.doctor._child import Answer, run
from tanren.common.doctor._disk import GIB, Room, read_room
from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._hub import cache_is_writable, hub_places, is_offline
from tanren.common.doctor._recipe_file import Recipe
from tanren.common.doctor._subject import Subject
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.task_packs import find_pack

REACH = 5.0  # s for one answer of the hub: a run that starts minutes later is no reason to wait longer
_CAN_BE_HAD = "cached, or reachable"
STARTING = 5.0  # s for the child to import the library, on a loaded machine


def check_recipe(subject: Subject, room_of: Callable[[Path], Room] = read_room) -> Iterator[Finding]:
    """Yield the recipe's model (with the room and memory that it takes), data file and task pack; nothing without one."""
    recipe = subject.recipe
    if recipe is None:
        return
    if recipe.model is not None:
        yield from _model(subject, recipe, recipe.model, room_of)
    if recipe.data is not None:
        yield _data(recipe, recipe.data)
    if recipe.task is not None:
        yield _task(recipe, recipe.task)


def _model(subject: Subject, recipe: Recipe, name: str, room_of: Callable[[Path], Room]) -> Iterator[Finding]:
    what, needed = "model", "one that can be loaded"
    fix = f"change model.name or model.revision in {recipe.path}"
    try:
        source = resolve_source(name, recipe.revision)
    except UserError as fault:
        yield Finding(what, str(fault), needed, Verdict.REFUSED, fix)
        return
    if source.kind == "hub":
        yield from _hub_model(subject, source, fix, room_of)
    elif source.kind == "folder":
        folder = Path(source.location)
        good = is_complete(folder)
        size = weights_bytes(folder_files(folder))
        found = source.describe() + (_gib(size) if good else ": its weights are not all there")
        yield judge(good, what, found, needed, fix)
        if good:
            yield from _memory(subject, size)
    else:
        yield Finding(what, source.describe(), needed, Verdict.OK)


def _hub_model(subject: Subject, source: ModelSource, fix: str, room_of: Callable[[Path], Room]) -> Iterator[Finding]:
    program = Path(__file__).with_name("_ask_hub.py")
    command: list[str | Path] = [sys.executable, "-P", program, source.location, source.revision or "", str(REACH)]
    answer = run(command, limit=REACH + STARTING, variables={**subject.variables, "HF_HUB_DISABLE_TELEMETRY": "1"})
    said = _said(answer)
    yield _hub_finding(subject, source, said, answer, fix)
    if said.get("state") == "reachable":
        cache, size = hub_places(subject.variables).cache, said["bytes"]
        if size is not None:
            room, needed = room_of(cache), size / GIB + 1.0  # the files beside the weights, and some to spare
            found = f"{room.free_gib:.1f} GiB free at {cache}"
            free_some = "free some space, or export HF_HOME=FOLDER on a larger disk"
            yield judge(room.free_gib >= needed, "room for the model", found, f"{needed:.1f} GiB", free_some)
        if not cache_is_writable(cache):
            elsewhere = "export HF_HOME=FOLDER, one that this user may write to"
            found = f"{cache}: this user cannot write to it"
            yield Finding("room for the model", found, "a cache to download to", Verdict.REFUSED, elsewhere)
    if said.get("state") in ("reachable", "cached"):
        yield from _memory(subject, said["bytes"])


def _hub_finding(subject: Subject, source: ModelSource, said: dict[str, Any], answer: Answer, fix: str) -> Finding:
    name = source.name + (f" at revision {source.revision}" if source.revision else "")
    state = said.get("state", "unreachable")
    loadable = state == "cached" or (state == "reachable" and said["has_config"] and said["bytes"] is not None)
    if loadable:
        where = "cached" if state == "cached" else f"reachable at {hub_places(subject.variables).endpoint}"
        return Finding("model", f"{name}: {where}{_gib(said['bytes'])}", _CAN_BE_HAD, Verdict.OK)
    reason, remedy = _why_not(subject, source, said, answer, fix)
    # too many questions, or a fault of the hub's: what the next one is told nobody knows
    verdict = Verdict.UNKNOWN if state == "refused" else Verdict.REFUSED
    return Finding("model", f"{name}: {reason}", _CAN_BE_HAD, verdict, remedy)


def _why_not(subject: Subject, source: ModelSource, said: dict[str, Any], answer: Answer, fix: str) -> tuple[str, str]:
    """Why a model cannot be had, and what to do."""
    endpoint, offline = hub_places(subject.variables).endpoint, is_offline(subject.variables)
    log_in = f"ask for access at {endpoint}/{source.location}, then `hf auth login` or export HF_TOKEN=..."
    fetch = f"hf download {source.location}" + (f" --revision {source.revision}" if source.revision else "")
    unreached = (
        f"no answer within {REACH:.0f} s" if answer.code is None else _without_token(answer.last_line or "no answer")
    )
    reasons = {
        "reachable": ("no config.json, or no weights that transformers loads", fix),
        "offline": (
            f"not in the cache, and {offline} forbids to fetch it",
            f"unset {offline}, or where there is a network: {fetch}",
        ),
        "gated": ("gated, and this token (or none) does not open it", log_in),
        "no-repository": (
            f"{endpoint} has no such model, or this token (or none) does not open it",
            f"{fix}; a private one: {log_in}",
        ),
        "no-revision": ("there is no such revision", fix),
        "refused": (
            f"not cached, and {endpoint} answered with status {said.get('status')}",
            f"try again later: {fetch}",
        ),
        "unreachable": (
            f"not cached, and {endpoint} cannot be reached: {unreached}",
            f"look at the network and at HTTPS_PROXY, or set HF_ENDPOINT to a mirror; where there is a network: {fetch}",
        ),
    }
    return reasons[said.get("state", "unreachable")]


def _said(answer: Answer) -> dict[str, Any]:
    lines = [line for line in answer.text.splitlines() if line.startswith(ANSWER)]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(ANSWER)) if lines and answer.code == 0 else {}
    return found


def _without_token(text: str) -> str:
    """A header that cannot be sent is named in the error, and with it the token."""
    return re.sub(r"(?i)bearer.*|hf_\w+", "(a token, not shown)", text)


def _memory(subject: Subject, size: int | None) -> Iterator[Finding]:
    """The weights are loaded into the machine's memory first, whichever device they are for."""
    capacity, free = subject.resources.capacity_gib, subject.resources.free_gib
    if size is None or capacity is None or free is None:
        return
    gib = size / GIB
    found, needed = f"{free:.1f} of {capacity:.1f} GiB free", f"{gib:.1f} GiB for its weights"
    fix = "give the container or job more memory, or take a smaller model or a larger machine"
    if gib > capacity:
        yield Finding("memory for the model", found, needed, Verdict.REFUSED, fix)
        return
    fix = "end what else uses memory: `ps aux | sort -rnk 6 | head` lists it"
    yield judge(gib <= free, "memory for the model", found, needed, fix, otherwise=Verdict.WARNING)


def _data(recipe: Recipe, path: Path) -> Finding:
    what, needed = "data", "a file with rows, readable"
    fix = f"change data.file in {recipe.path} (a path there is relative to the current folder)"
    if not path.is_file():
        found = f"{path}: {'a folder' if path.is_dir() else 'no such file'}" + (
            "" if path.is_absolute() else f" in {Path.cwd()}"
        )
        return Finding(what, found, needed, Verdict.REFUSED, fix)
    if not os.access(path, os.R_OK):
        return Finding(what, f"{path}: this user may not read it", needed, Verdict.REFUSED, f"chmod u+r {path}")
    size = path.stat().st_size
    return judge(size > 0, what, f"{path}: {size / 2**20:.1f} MiB" if size else f"{path}: empty", needed, fix)


def _task(recipe: Recipe, name: str) -> Finding:
    what, needed = "task pack", "one with task.toml and task.py"
    try:
        folder = find_pack(name)
    except UserError as fault:
        return Finding(what, str(fault), needed, Verdict.REFUSED, f"change task.name in {recipe.path}")
    good = (folder / "task.py").is_file()
    return judge(
        good, what, str(folder) if good else f"{folder}: no task.py", needed, "docs/tasks.md says what a pack holds"
    )


def _gib(size: int | None) -> str:
    return "" if size is None else f", {size / GIB:.2f} GiB of weights"
