"""Samples on disk: a run of a million rows holds numbers about them in memory, and reads a sample when a step needs it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, overload

import numpy as np

from tanren.common.chat import Sample
from tanren.common.errors import MachineError, says_disk_full
from tanren.common.workspace import cache_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEARNED = np.uint32(1 << 31)
"""The bit of a stored token that says that it is learned; no vocabulary reaches it."""
TOKEN_BYTES = 4


class SampleStore(Sequence[Sample]):
    """Samples in the order in which they were added, in two files without a name: they are gone with the process, however it ends.

    A resumed run makes its samples anew, and `sha256` proves that they are the same ones.
    """

    def __init__(self) -> None:
        """Open an empty store in the user's cache folder. Raises MachineError where nothing can be written there."""
        self._tokens, self._facts = _nameless_file(), _nameless_file()
        # 24 bytes for each sample are all that stays in memory.
        self._token_ends, self._fact_ends = array("Q", [0]), array("Q", [0])
        self._supervised = array("I")
        self._digest = hashlib.sha256()
        self._flushed = True

    def add(self, sample: Sample) -> None:
        """Append a sample."""
        tokens = np.array(sample.input_ids, dtype=np.uint32)
        tokens[np.array(sample.loss_mask, dtype=bool)] |= LEARNED
        facts = json.dumps([sample.row_id, sample.prompt_hash, sample.markers], ensure_ascii=False).encode()
        self._tokens.write(tokens.tobytes())
        self._facts.write(facts)
        self._token_ends.append(self._token_ends[-1] + len(tokens))
        self._fact_ends.append(self._fact_ends[-1] + len(facts))
        self._supervised.append(sample.supervised)
        self._digest.update(repr((sample.input_ids, sample.loss_mask)).encode())
        self._flushed = False

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._supervised)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Read one sample, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if not self._flushed:
            self._tokens.flush()
            self._facts.flush()
            self._flushed = True
        # Read, not mapped: pages that are mapped count as memory of the process, and stay.
        first, last = self._token_ends[place], self._token_ends[place + 1]
        tokens = np.frombuffer(
            os.pread(self._tokens.fileno(), (last - first) * TOKEN_BYTES, first * TOKEN_BYTES), dtype=np.uint32
        )
        begin, end = self._fact_ends[place], self._fact_ends[place + 1]
        row_id, prompt_hash, markers = json.loads(os.pread(self._facts.fileno(), end - begin, begin))
        mask = (tokens & LEARNED).astype(bool)
        return Sample(row_id, (tokens & ~LEARNED).tolist(), mask.tolist(), prompt_hash, tuple(markers))

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens of each sample."""
        return np.diff(np.array(self._token_ends, dtype=np.uint64)).astype(np.uint32)

    @property
    def supervised(self) -> NDArray[np.uint32]:
        """Learned tokens of each sample."""
        return np.array(self._supervised, dtype=np.uint32)

    @property
    def sha256(self) -> str:
        """A hash of every token and every mask, in order."""
        return self._digest.copy().hexdigest()


@dataclass(frozen=True)
class TrainingSamples(Sequence[Sample]):
    """What one pass of each phase trains on: samples of a store by their numbers, some of them several times.

    `entries`: numbers of samples, (entries,) uint32, phase after phase; `sizes`: how many of them each phase has.
    """

    source: Sequence[Sample]
    entries: NDArray[np.uint32]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> TrainingSamples:
        """Return samples as one phase that takes each once; what is in phases already stays as it is."""
        if isinstance(samples, TrainingSamples):
            return samples
        return cls(samples, np.arange(len(samples), dtype=np.uint32), (len(samples),))

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Read the sample of an entry, or of several."""
        if isinstance(index, slice):
            return [self.source[entry] for entry in self.entries[index].tolist()]
        return self.source[int(self.entries[index])]

    @cached_property
    def lengths(self) -> NDArray[np.uint32]:
        """Tokens of each entry."""
        lengths = (
            self.source.lengths
            if isinstance(self.source, SampleStore)
            else _counts(len(one.input_ids) for one in self.source)
        )
        return lengths[self.entries]

    @cached_property
    def supervised(self) -> NDArray[np.uint32]:
        """Learned tokens of each entry."""
        supervised = (
            self.source.supervised
            if isinstance(self.source, SampleStore)
            else _counts(one.supervised for one in self.source)
        )
        return supervised[self.entries]

    def no_longer_than(self, tokens: int) -> TrainingSamples:
        """Return it without the entries that have more tokens."""
        kept = self.lengths <= tokens
        ends = np.cumsum(self.sizes)
        sizes = [int(kept[end - size : end].sum()) for size, end in zip(self.sizes, ends, strict=True)]
        return TrainingSamples(self.source, self.entries[kept], tuple(sizes))

    def sha256(self) -> str:
        """Return a hash of what is trained on: every token and every mask, and which come several times or in which phase."""
        assert isinstance(self.source, SampleStore), "samples that are trained on are stored"
        if len(self.sizes) == 1 and np.array_equal(self.entries, np.arange(len(self.source))):
            return self.source.sha256
        order = json.dumps([self.source.sha256, self.sizes]).encode() + self.entries.astype("<u4").tobytes()
        return hashlib.sha256(order).hexdigest()


def _counts(values: Iterable[int]) -> NDArray[np.uint32]:
    return np.fromiter(values, dtype=np.uint32)


def _nameless_file() -> IO[Any]:
    """Open a file in the cache folder, which is on a disk: the folder for temporary files may be memory."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder, buffering=1 << 20)
    except OSError as error:
        if says_disk_full(error):
            raise
        raise MachineError(
            f"samples cannot be kept on disk: {error}; set TANREN_CACHE_DIR to a folder that can be written"
        ) from None
