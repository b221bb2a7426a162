"""Samples on disk: what is read is what was added, nothing is left behind, and a long run is numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.chat import Sample
from tanren.common.errors import MachineError
from tanren.sft.packing import lay_out
from tanren.sft.store import SampleStore, TrainingSamples

MakeSample = Callable[..., Sample]

TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20)
SAMPLES = st.lists(
    st.builds(
        lambda row_id, tokens, key, markers: Sample(
            row_id, [t for t, _ in tokens], [m for _, m in tokens], key, markers
        ),
        st.text(st.characters(codec="utf-8"), max_size=8),
        TOKENS,
        st.text("0123456789abcdef", min_size=16, max_size=16),
        st.lists(st.integers(0, 3), max_size=2).map(tuple),
    ),
    max_size=12,
)


@given(SAMPLES)
def test_samples_are_read_as_they_were_added(samples: list[Sample]) -> None:
    store = SampleStore()
    for place, sample in enumerate(samples):
        store.add(sample)
        assert store[place] == sample  # while it is written, too
    assert list(store) == samples
    assert store[-2:] == samples[-2:]
    assert store.lengths.tolist() == [len(sample.input_ids) for sample in samples]
    assert store.supervised.tolist() == [sample.supervised for sample in samples]
    with pytest.raises(IndexError):
        store[len(samples)]


def test_the_hash_is_of_every_token_and_mask_and_tells_what_comes_twice(make: MakeSample) -> None:
    store, samples = SampleStore(), [make([1, 2, 3]), make([4, 5])]
    for sample in samples:
        store.add(sample)
    by_hand = hashlib.sha256(b"([1, 2, 3], [False, True, True])([4, 5], [False, True])").hexdigest()
    assert store.sha256 == TrainingSamples.of(store).sha256() == by_hand
    entries = [[0, 1, 1], [1, 0], [0, 1]]
    others = {TrainingSamples(store, np.array(one, dtype=np.uint32), (len(one),)).sha256() for one in entries}
    others.add(TrainingSamples(store, np.array([0, 1], dtype=np.uint32), (1, 1)).sha256())
    assert len(others) == 4
    assert by_hand in others


def test_the_files_have_no_name_so_that_nothing_is_left_behind(
    make: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANREN_CACHE_DIR", str(tmp_path / "cache"))
    store = SampleStore()
    store.add(make([1, 2, 3]))
    assert store[0].input_ids == [1, 2, 3]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("TANREN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(MachineError, match="set TANREN_CACHE_DIR"):
        SampleStore()


def test_entries_may_repeat_a_sample_and_are_left_out_by_length(make: MakeSample) -> None:
    samples = [make([7] * length, row_id=str(length)) for length in (2, 5, 3)]
    twice = TrainingSamples(samples, np.array([0, 1, 1, 2, 0], dtype=np.uint32), (3, 2))
    assert [sample.row_id for sample in twice] == ["2", "5", "5", "3", "2"]
    assert twice.lengths.tolist() == [2, 5, 5, 3, 2]
    assert twice.supervised.tolist() == [1, 4, 4, 2, 1]
    short = twice.no_longer_than(3)
    assert ([sample.row_id for sample in short], short.sizes) == (["2", "3", "2"], (1, 2))


def test_each_phase_is_laid_out_in_steps_of_its_own(make: MakeSample) -> None:
    samples = [make([7] * 4, row_id=str(number)) for number in range(6)]
    phases = TrainingSamples(samples, np.array([0, 1, 2, 2, 3, 4, 5], dtype=np.uint32), (4, 3))
    steps = lay_out(phases, rows=[6, 3], rows_per_step=4, budget=8, seed=1)
    ids = [[sample.row_id for batch in step.micro_batches for sample in batch.samples] for step in steps]
    assert [len(step) for step in ids] == [4, 2, 3]
    assert sorted(ids[0]) == ["0", "1", "2", "2"]
    assert sorted(ids[2]) == ["3", "4", "5"]
    assert steps.tokens.tolist() == [8, 8, 8, 8, 4]
    assert steps.supervised.tolist() == [6, 6, 6, 6, 3]
    assert steps.step_tokens.tolist() == [16, 8, 12]


# What the code of the days when all samples were objects in lists gave for this recipe.
def test_the_order_of_a_seed_has_not_changed(make: MakeSample) -> None:
    lengths = [len(b"<|>") + 3 * i % 11 + i % 5 for i in range(12)]
    store = SampleStore()
    for place, length in enumerate(lengths):
        store.add(make([7] * length, row_id=f"r{place}"))
    steps = lay_out(store, rows=30, rows_per_step=5, budget=70, seed=11)
    ids = [sorted(sample.row_id for batch in step.micro_batches for sample in batch.samples) for step in steps]
    assert ids == [
        ["r1", "r10", "r11", "r7", "r9"],
        ["r0", "r2", "r3", "r4", "r6"],
        ["r3", "r4", "r5", "r6", "r8"],
        ["r1", "r10", "r11", "r5", "r9"],
        ["r0", "r10", "r2", "r7", "r8"],
        ["r0", "r11", "r4", "r6", "r9"],
    ]
