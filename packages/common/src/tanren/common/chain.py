"""The chain below an adapter: which adapters were merged into which base, in which order, before it was trained.

An adapter means something only on the weights that it was trained on. So its `provenance.json` names the base model and
every parent by hash, and `parents/` beside it holds their files: an adapter's folder is whole, wherever it is copied to.
Everything that puts an adapter on a model (training, `evaluate`, `tanren merge`) reads the chain here, without torch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.workspace import sha256_of

PROVENANCE = "provenance.json"
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
PARENTS = "parents"
LATEST = "latest:"
# One weight at a time is raised to float32, added to, and rounded once: the record says so, so that a change of it shows.
MERGED_IN = "float32"
# What tells weights apart, the surest first.
IDENTITY = ("weights_sha256", "commit", "name")


@dataclass(frozen=True)
class Link:
    """One merged adapter of a chain: where its files are, and what identifies it."""

    folder: Path
    adapter_sha256: str
    adapter_config_sha256: str
    run: str
    recipe: str
    rank: int
    stored_in: str
    """Precision of the weights that it is merged into; of an adapter that is not merged yet, of those it was trained on."""

    def record(self, number: int) -> dict[str, Any]:
        """Return what provenance.json says of it, as parent `number` (from 1) of an adapter."""
        return {"folder": f"{PARENTS}/{number}-{self.adapter_sha256[:8]}"} | self.merged_record()

    def merged_record(self) -> dict[str, Any]:
        """Return what is said of it where its files are not kept: its weights are part of a whole model."""
        return {
            "adapter_sha256": self.adapter_sha256,
            "adapter_config_sha256": self.adapter_config_sha256,
            "run": self.run,
            "recipe": self.recipe,
            "rank": self.rank,
            "merged_in": MERGED_IN,
            "stored_in": self.stored_in,
        }

    def line(self) -> str:
        """Say in a few words which one it is."""
        return f"{self.run} (rank {self.rank}, sha256 {self.adapter_sha256[:8]})"


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter's folder, checked against its own record: the files are those that were written."""

    folder: Path
    base: Mapping[str, Any]
    template: str
    parents: tuple[Link, ...]
    itself: Link

    def chain(self, stored_in: str) -> tuple[Link, ...]:
        """Return its parents and itself in the order in which they are merged, itself into weights of that precision."""
        return (*self.parents, replace(self.itself, stored_in=stored_in))

    def lines(self) -> list[str]:
        """Say in a few words each what the chain is."""
        return [link.line() for link in (*self.parents, self.itself)]


def read_adapter(folder: Path) -> TrainedAdapter:
    """Read an adapter's record and check every file of its chain against it.

    Raises UserError for a folder that holds no adapter of ours, a file that is another than the recorded one, and a
    parent that is not there (naming the hash that was looked for).
    """
    path = folder / PROVENANCE
    for needed in (path, folder / WEIGHTS, folder / SETTINGS):
        if not needed.is_file():
            raise UserError(
                f"{folder} is no trained adapter: there is no {needed.name}; name a folder that a run wrote"
            )
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        parents = tuple(_parent(folder, number, one) for number, one in enumerate(recorded["parents"], start=1))
        itself = Link(
            folder=folder,
            adapter_sha256=recorded["adapter_sha256"],
            adapter_config_sha256=recorded["adapter_config_sha256"],
            run=recorded["run"],
            recipe=recorded["recipe"],
            rank=recorded["rank"],
            stored_in=recorded["trained_in"],
        )
        found = TrainedAdapter(folder, recorded["base_model"], recorded["chat_template_hash"], parents, itself)
    except (ValueError, KeyError, TypeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is not what this version writes: {what}; train the adapter again") from None
    for link in (*parents, itself):
        _check_files(link)
    return found


def _parent(adapter: Path, number: int, record: Mapping[str, Any]) -> Link:
    """Return parent `number` of an adapter as it is recorded."""
    folder, sha256 = adapter / record["folder"], record["adapter_sha256"]
    if record["merged_in"] != MERGED_IN:
        raise ValueError(f"its parent {number} was merged in {record['merged_in']!r}, which this version cannot repeat")
    if not (folder / WEIGHTS).is_file() or not (folder / SETTINGS).is_file():
        raise UserError(
            f"the adapter {adapter} was trained on weights into which {record['run']} had been merged, and that parent is "
            f"not at {folder}: looked for {WEIGHTS} with sha256 {sha256}, and {SETTINGS}; copy the whole adapter folder of "
            f"its run, {PARENTS}/ included, or put the adapter of {record['run']} there"
        )
    names = ("adapter_sha256", "adapter_config_sha256", "run", "recipe", "rank", "stored_in")
    return Link(folder=folder, **{name: record[name] for name in names})


def _check_files(link: Link) -> None:
    for name, recorded in ((WEIGHTS, link.adapter_sha256), (SETTINGS, link.adapter_config_sha256)):
        found = sha256_of(link.folder / name)
        if found != recorded:
            raise UserError(
                f"{link.folder / name} is another file than the one that {link.run} wrote: sha256 {found}, recorded is "
                f"{recorded}; put the recorded one back, or train again"
            )


def copy_parents(parents: Sequence[Link], adapter: Path) -> list[dict[str, Any]]:
    """Copy the parents' files into an adapter's folder; return their records."""
    records = [link.record(number) for number, link in enumerate(parents, start=1)]
    for link, record in zip(parents, records, strict=True):
        target = adapter / record["folder"]
        target.mkdir(parents=True)
        for name in (WEIGHTS, SETTINGS):
            shutil.copyfile(link.folder / name, target / name)
    return records


def same_base(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return None where two records name the same weights, else what differs, in words."""
    key = next(key for key in IDENTITY if key in recorded or key in now)
    if recorded.get(key) == now.get(key):
        return None
    return f"{key} {recorded.get(key)!r}, but {now['name']} has {now.get(key)!r}"


def find_parent(named: str, runs: Path, key: str = "model.parent") -> Path:
    """Return the run directory that is named: a path, or `latest:NAME`, the newest finished run of that recipe.

    Raises UserError, saying that `key` names it, where there is none, or where it is not finished.
    """
    if not named.startswith(LATEST):
        return _finished_run(Path(named).expanduser(), named, key)
    name = named.removeprefix(LATEST)
    # With the time's form, so that `sft` does not find the runs of `sft-long`.
    form = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
    folders = [path for path in runs.expanduser().glob("*") if form.fullmatch(path.name)]
    finished = [path for path in folders if _status(path) == "done"]
    if not finished:
        found = f"{len(folders)} runs of it, none finished" if folders else "no run of it"
        raise UserError(f"{key} {named!r}: {found} in {runs}; train {name!r} first, or name a run directory")
    return _finished_run(max(finished, key=lambda path: (path / "summary.json").stat().st_mtime), named, key)


def _finished_run(run: Path, named: str, key: str) -> Path:
    status = _status(run)
    if status is None:
        what = (
            "no such folder" if not run.is_dir() else "it has no summary.json: the run is not finished, or it is none"
        )
        raise UserError(f"{key} {named!r}: {what} ({run}); name a finished run directory, or {LATEST}NAME")
    if status != "done":
        raise UserError(f"{key} {named!r}: the run {run} is {status}, not done; finish it first: --resume {run}")
    stages = _summary(run).get("stages")
    if stages:  # a run of several stages: its result is that of the last one
        return _finished_run(run / stages[-1]["folder"], named, key)
    if not (run / "adapter").is_dir():
        whole = run / "model"
        do = f"its result is a whole model: write model.name = {str(whole)!r}" if whole.is_dir() else "name another run"
        raise UserError(f"{key} {named!r}: the run {run} has no adapter; {do}")
    return run


def _status(run: Path) -> str | None:
    status = _summary(run).get("status")
    return status if isinstance(status, str) else None


def _summary(run: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found
