"""Which GPUs a program of this machine would see: CUDA_VISIBLE_DEVICES, MIG slices, and the order of their numbers.

https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html: numbers, or beginnings of
UUIDs, with commas between; the first that names none, or one again, ends the list, and so hides all after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tanren.common.doctor._nvml import Gpu, MigSlice

VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Visible:
    """One GPU as CUDA will see it: a whole card, or one of its slices."""

    gpu: Gpu
    slice: MigSlice | None = None
    """None for a whole card, and for one with MIG on and no slices, where CUDA sees nothing."""

    @property
    def uuid(self) -> str:
        """What names it in CUDA_VISIBLE_DEVICES."""
        return self.slice.uuid if self.slice else self.gpu.uuid

    @property
    def free_gib(self) -> float | None:
        """Memory that nobody uses."""
        return self.slice.free_gib if self.slice else self.gpu.free_gib

    @property
    def memory_gib(self) -> float | None:
        """All its memory."""
        return self.slice.memory_gib if self.slice else self.gpu.memory_gib


def visible_gpus(gpus: Iterable[Gpu], variables: Mapping[str, str]) -> tuple[tuple[Visible, ...], str]:
    """Return what is visible, and the first entry of the variable that names no other GPU ('' for none).

    Without the variable: all cards, and of each with MIG on the first slice.
    """
    cards = [Visible(gpu, gpu.slices[0] if gpu.slices else None) for gpu in gpus]
    named = variables.get(VARIABLE)
    if named is None:
        return tuple(cards), ""
    parts = [Visible(card.gpu, part) for card in cards for part in card.gpu.slices]
    found: list[Visible] = []
    for entry in (entry.strip() for entry in named.split(",")) if named.strip() else ():
        one = _named(entry, cards, parts)
        if one is None or one in found:
            return tuple(found), entry or "an empty entry"
        found.append(one)
    return tuple(found), ""


def _named(entry: str, cards: list[Visible], parts: list[Visible]) -> Visible | None:
    if entry.isdecimal():
        return next((card for card in cards if card.gpu.index == int(entry)), None)
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matching = [one for one in dict.fromkeys([*parts, *cards]) if one.uuid.startswith(entry)]
    matching = matching or [card for card in cards if card.gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None
