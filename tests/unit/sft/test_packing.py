"""The lay-out of a run: every row once an epoch, no pass over its budget, the same from the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from tanren.common.chat import Sample
from tanren.sft.packing import Step, lay_out, pack

MakeSample = Callable[..., Sample]

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=25)


def _samples(make: MakeSample, lengths: Sequence[int]) -> list[Sample]:
    return [make([7] * length, row_id=str(index)) for index, length in enumerate(lengths)]


def _ids(step: Step) -> list[str]:
    return [sample.row_id for micro_batch in step.micro_batches for sample in micro_batch.samples]


@given(lengths=LENGTHS, budget=st.integers(1, 64))
def test_packing_keeps_every_sample_within_the_budget(make: MakeSample, lengths: list[int], budget: int) -> None:
    samples = _samples(make, lengths)
    packed = pack(samples, budget)
    assert sorted(s.row_id for m in packed for s in m.samples) == sorted(s.row_id for s in samples)
    for micro_batch in packed:
        assert micro_batch.tokens <= budget or len(micro_batch.samples) == 1
    # First fit leaves no two passes that would fit into one.
    sizes = sorted(micro_batch.tokens for micro_batch in packed)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > budget


@given(
    lengths=LENGTHS,
    rows=st.integers(1, 60),
    rows_per_step=st.integers(1, 9),
    budget=st.integers(1, 64),
    seed=st.integers(0, 9),
)
def test_every_row_comes_once_in_each_epoch_and_steps_are_full_but_the_last(
    make: MakeSample, lengths: list[int], rows: int, rows_per_step: int, budget: int, seed: int
) -> None:
    samples = _samples(make, lengths)
    steps = lay_out(samples, rows=rows, rows_per_step=rows_per_step, budget=budget, seed=seed)
    again = lay_out(samples, rows=rows, rows_per_step=rows_per_step, budget=budget, seed=seed)
    assert list(steps) == list(again)
    sizes = [len(_ids(step)) for step in steps]
    assert sizes[:-1] == [rows_per_step] * (len(steps) - 1)
    assert sum(sizes) == rows
    assert 1 <= sizes[-1] <= rows_per_step
    counts = Counter(identity for step in steps for identity in _ids(step))
    assert set(counts.values()) <= {rows // len(samples), -(-rows // len(samples))}
    for step in steps:
        assert step.tokens == sum(lengths[int(identity)] for identity in _ids(step))
        assert step.supervised == sum(lengths[int(identity)] - 1 for identity in _ids(step))


def test_no_row_comes_twice_within_an_epoch(make: MakeSample) -> None:
    steps = lay_out(_samples(make, [3] * 10), rows=30, rows_per_step=5, budget=6, seed=1)
    order = [identity for step in steps for identity in _ids(step)]
    epochs = [order[first : first + 10] for first in range(0, 30, 10)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed_and_not_on_the_length_of_the_run(make: MakeSample) -> None:
    samples = _samples(make, [2] * 50)
    short = lay_out(samples, rows=20, rows_per_step=4, budget=2, seed=1)
    assert lay_out(samples, rows=60, rows_per_step=4, budget=2, seed=1)[:5] == list(short)
    assert list(lay_out(samples, rows=20, rows_per_step=4, budget=2, seed=2)) != list(short)


def test_a_sample_that_is_longer_than_the_budget_has_a_pass_to_itself(make: MakeSample) -> None:
    packed = pack(_samples(make, [2, 9, 3]), 5)
    assert [[sample.row_id for sample in m.samples] for m in packed] == [["1"], ["2", "0"]]
