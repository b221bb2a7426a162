"""Run as a program: what the hub says of a model. Prints one line of JSON; what it does not expect ends with a traceback.

Arguments: the model's id, its revision ('' for the default), the seconds that one answer may take. The library is asked,
not the network: its cache, its address (HF_ENDPOINT), its token, its proxies. The token goes to the hub and nowhere else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ANSWER = "tanren-doctor-hub "
CONFIG = "config.json"


def weights_bytes(files: Mapping[str, int]) -> int | None:
    """Return the bytes of the weights that transformers would load, by file name: safetensors first; None for no weights."""
    for start, end in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if sizes := [size for name, size in files.items() if name.startswith(start) and name.endswith(end)]:
            return sum(sizes)
    return None


def folder_files(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in a folder, links followed; a link that leads nowhere is no file."""
    return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}


def is_complete(folder: Path) -> bool:
    """Whether a folder has a model's configuration and all its weights."""
    files = folder_files(folder)
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in files:
            shards = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
            return CONFIG in files and set(shards) <= files.keys()
    return CONFIG in files and weights_bytes(files) is not None


def ask(name: str, revision: str | None, seconds: float) -> dict[str, Any]:
    """Return 'state' and what belongs to it: cached, offline, reachable, gated, no-revision, no-repository or refused."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder: Path | None = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder is not None and is_complete(folder):
        return {"state": "cached", "bytes": weights_bytes(folder_files(folder))}
    return {"state": "offline"} if constants.HF_HUB_OFFLINE else ask_network(name, revision, seconds)


def ask_network(name: str, revision: str | None, seconds: float) -> dict[str, Any]:
    """Return the hub's own answer, the states from 'reachable' on."""
    from huggingface_hub import HfApi, errors, get_hf_file_metadata, hf_hub_url

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=seconds)
        if info.gated:  # everyone may read about it; the files are what the gate is before
            get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision), timeout=seconds)
    except errors.HfHubHTTPError as fault:
        kinds = {  # the first that fits: a gated repository is a kind of one that is not found
            errors.GatedRepoError: "gated",
            errors.RevisionNotFoundError: "no-revision",
            errors.RepositoryNotFoundError: "no-repository",
        }
        state = next((state for kind, state in kinds.items() if isinstance(fault, kind)), "refused")
        return {"state": state, "status": fault.response.status_code}
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return {"state": "reachable", "bytes": weights_bytes(files), "has_config": CONFIG in files}


if __name__ == "__main__":
    asked_for, at, limit = sys.argv[1:]
    print("\n" + ANSWER + json.dumps(ask(asked_for, at or None, float(limit))), flush=True)  # noqa: T201 (read by the doctor)
