"""Lengths into bins: how samples share forward passes."""

from __future__ import annotations

from collections.abc import Sequence


def first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Pack lengths into as few bins of at most `budget` as first-fit-decreasing finds; return the places in each.

    What is longer than the budget gets a bin to itself.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        found = next((index for index, free in enumerate(room) if free >= length), None)
        if found is None:
            bins.append([place])
            room.append(budget - length)
        else:
            bins[found].append(place)
            room[found] -= length
    return bins
