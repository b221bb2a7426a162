"""Datasets on the Hugging Face hub, read at one commit.

Without the hub, the library `datasets` gives whatever commit lies in its cache, and says so in a warning alone. So the hub
is asked first, and what the library gave is checked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from tanren.common.data._column_rows import plain
from tanren.common.data._records import Fault, Record
from tanren.common.errors import MachineError, UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_commit(name: str, revision: str | None) -> str:
    """Return the commit that a branch, a tag, a commit or (None) the default branch of a dataset stands for; the hub is asked.

    Where HF_HUB_OFFLINE forbids that, only a commit can be resolved, to itself. Raises UserError for a dataset or revision
    that is not there, MachineError where the hub cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi, errors

    repository = name.partition(":")[0]
    try:
        commit = HfApi().dataset_info(repository, revision=revision).sha
    except errors.OfflineModeIsEnabled:
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        raise UserError(
            f"{repository}: HF_HUB_OFFLINE forbids to ask the hub which commit is meant: name one that is in the cache "
            "(its 40 digits as the revision), or a file"
        ) from None
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
    except (httpx.HTTPError, OSError) as error:
        raise MachineError(f"{repository}: no such file, and the hub cannot be asked: {_first_line(error)}") from None
    assert commit is not None, "the hub names the commit of every dataset"
    return commit


def read_hub(name: str, split: str, revision: str | None) -> Iterator[Record | Fault]:
    """Yield the rows of a split (see `resolve_commit` for the errors; an unknown split or config is one, too).

    The dataset is stored once in the cache of the library `datasets`, and rows are read from there one by one.
    """
    commit = resolve_commit(name, revision)
    import datasets
    import httpx

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    repository, _, config = name.partition(":")
    try:
        if not datasets.config.HF_HUB_OFFLINE:
            config = _known_config(repository, config, commit)
            splits = datasets.get_dataset_split_names(repository, config, revision=commit)
            if split not in splits:
                raise UserError(f"{name}: no split {split!r}; it has {', '.join(splits)}")
        table = datasets.load_dataset(repository, config or None, split=split, revision=commit)
    except httpx.HTTPError as error:
        raise MachineError(f"{name}: the hub cannot be asked: {_first_line(error)}") from None
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise UserError(f"{name}: the dataset cannot be loaded: {_first_line(error)}") from None
    elsewhere = [file["filename"] for file in table.cache_files if commit not in file["filename"]]
    if elsewhere:
        raise UserError(f"{name}: commit {commit} is not in the cache; the library offers another one: {elsewhere[0]}")
    return _records(table, f"{name} ({split})")


def _known_config(repository: str, config: str, commit: str) -> str:
    """Return the config that is meant. Raises UserError, with the known ones, where that is not clear."""
    import datasets

    configs = datasets.get_dataset_config_names(repository, revision=commit)
    chosen: str = config or datasets.get_dataset_default_config_name(repository, revision=commit) or ""
    if chosen in configs:
        return chosen
    wrong = f"no config {config!r}" if config else "several configs"
    raise UserError(f"{repository}: {wrong}; name one as {repository}:CONFIG, of {', '.join(configs)}")


def _records(table: Any, place: str) -> Iterator[Record | Fault]:
    for number, value in enumerate(table, start=1):
        yield Record(number, f"{place}: row {number}", plain(value), columnar=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
