"""Datasets on the Hugging Face hub, read at one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tanren.common.data._column_rows import plain
from tanren.common.data._records import Fault, Record
from tanren.common.errors import MachineError, UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_commit(name: str, revision: str | None) -> str:
    """Return the commit that a branch, a tag or (None) the default branch of a dataset stands for; the network is asked.

    Raises UserError for a dataset or revision that is not there, MachineError where the hub cannot be reached.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import httpx
    from huggingface_hub import HfApi, errors

    repository = name.partition(":")[0]
    try:
        commit = HfApi().dataset_info(repository, revision=revision).sha
    except errors.GatedRepoError:
        raise UserError(
            f"{repository}: a gated dataset: accept its terms on its page, and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repository}: no revision {revision!r}; expected a branch, a tag or a commit") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{repository}: no such file, and no such dataset on the hub (or one that needs a login: `hf auth login`)"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise UserError(
            f"{repository}: HF_HUB_OFFLINE forbids to ask the hub; name the commit (revision), or a file saved before"
        ) from None
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise MachineError(f"{repository}: no such file, and the hub cannot be asked: {_first_line(error)}") from None
    assert commit is not None, "the hub names the commit of every dataset"
    return commit


def read_hub(name: str, split: str, revision: str | None) -> Iterator[Record | Fault]:
    """Yield the rows of a split (see `resolve_commit` for the errors; an unknown split or config is one, too).

    The dataset is stored once in the cache of the library `datasets`, and rows are read from there one by one.
    """
    import datasets

    repository, _, config = name.partition(":")
    commit = resolve_commit(name, revision)
    try:
        configs = datasets.get_dataset_config_names(repository, revision=commit)
        if not config and len(configs) > 1:
            config = datasets.get_dataset_default_config_name(repository, revision=commit) or ""
        if config not in ("", *configs) or (not config and len(configs) > 1):
            raise UserError(
                f"{repository}: {f'no config {config!r}' if config else 'several configs'}; write {repository}:CONFIG with one of "
                + ", ".join(configs)
            )
        splits = datasets.get_dataset_split_names(repository, config or None, revision=commit)
        if split not in splits:
            raise UserError(f"{name}: no split {split!r}; it has {', '.join(splits)}")
        table = datasets.load_dataset(repository, config or None, split=split, revision=commit)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: the dataset cannot be loaded: {_first_line(error)}") from None
    return _records(table, f"{name} ({split})")


def _records(table: Any, place: str) -> Iterator[Record | Fault]:
    for number, value in enumerate(table, start=1):
        yield Record(number, f"{place}: row {number}", plain(value), columnar=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
