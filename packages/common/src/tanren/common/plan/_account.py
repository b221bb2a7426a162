"""An account of every tensor's memory while a piece of code runs on tensors without data (torch's meta device).

Each storage is counted once, from the operation that makes it to the moment when nothing holds it any more, under the
category that is set at the time. What an operation reads and none made was there before (fused layers hold blocks of the
adapters' weights). So the account sees what autograd really saves for the backward pass, whatever the
modelling code does. Operations are counted with their products and their bytes, from which a time is predicted.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tanren.common.plan._categories import WEIGHTS
from tanren.common.plan._operations import Operation, operation_of

BLOCK = 512
"""Bytes: torch's CUDA allocator hands out multiples of it (kMinBlockSize, c10/cuda/CUDACachingAllocator)."""

Key = tuple[Any, ...]


class Account(TorchDispatchMode):
    """Counts live bytes by category, the categories at the peak, and the operations."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.category = "other"
        self.live: Counter[str] = Counter()
        self.peak: Mapping[str, int] = {}
        self.peak_bytes = 0
        self.largest = 0
        """Bytes of the largest tensor that an operation made."""
        self.operations: Counter[Operation] = Counter()
        self._entries: dict[int, tuple[weakref.ref[torch.UntypedStorage], str, int]] = {}
        self._total = 0
        self._made: dict[Key, tuple[type | None, tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]]] = {}

    def hold(self, tensors: Iterable[torch.Tensor], category: str) -> None:
        """Count tensors that are there already, or move them to another category."""
        for tensor in tensors:
            self._forget(id(tensor.untyped_storage()))
            self._count(tensor, category)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and account for it."""
        del types
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            # There is no value to read. The library asks for one in a forward pass: is this a single sample (no mask)?
            return False
        inputs = _tensors((*args, *(kwargs or {}).values()))
        key = _key(func, args, kwargs or {})
        result = self._again(key)
        if result is None:
            result = func(*args, **(kwargs or {}))
            self._remember(key, func, inputs, result)
        outputs = _tensors(result if isinstance(result, tuple | list) else (result,))
        operation = operation_of(func, args, inputs, outputs)
        if operation is not None:
            self.operations[operation] += 1
        for tensor in inputs:  # torch.tensor() makes its tensors unseen: token ids and places, no weights
            self._count(tensor, WEIGHTS if tensor.is_floating_point() else self.category)
        for tensor in outputs:
            self._count(tensor, self.category)
        self.largest = max(self.largest, *(tensor.untyped_storage().nbytes() for tensor in outputs), 0)
        return result

    def _again(self, key: Key | None) -> Any:
        """Return fresh tensors as the same operation made them before: torch works shapes out in Python, which takes long."""
        made = None if key is None else self._made.get(key)
        if made is None:
            return None
        whole, parts = made
        tensors = tuple(torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in parts)
        return whole(tensors) if whole is not None else tensors[0]

    def _remember(self, key: Key | None, func: Any, inputs: list[torch.Tensor], result: Any) -> None:
        """Note what an operation makes, if it makes nothing but new tensors."""
        results = result if isinstance(result, tuple | list) else (result,)
        places = {id(tensor.untyped_storage()) for tensor in inputs}
        if key is None or func._schema.is_mutable or not all(isinstance(one, torch.Tensor) for one in results):
            return
        fresh = {id(tensor.untyped_storage()) for tensor in results}
        if fresh & places or len(fresh) < len(results):
            return
        whole = type(result) if isinstance(result, tuple | list) else None
        self._made[key] = (whole, tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in results))

    def _count(self, tensor: torch.Tensor, category: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._entries:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._entries[key] = (weakref.ref(storage, lambda _: self._forget(key)), category, size)
        self.live[category] += size
        self._total += size
        if self._total > self.peak_bytes:
            self.peak_bytes, self.peak = self._total, dict(self.live)

    def _forget(self, key: int) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            _, category, size = entry
            self.live[category] -= size
            self._total -= size


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found


def _key(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key | None:
    """Return what an operation's result depends on, where there are no data; None if that cannot be compared."""
    key = (func, _described(args), tuple((name, _described((value,))) for name, value in kwargs.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _described(values: Iterable[Any]) -> Key:
    described: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            described.append((value.shape, value.stride(), value.dtype))
        elif isinstance(value, tuple | list):
            described.append(_described(value))
        else:
            described.append((type(value), value))  # 1 and 1.0 are equal, and make different tensors
    return tuple(described)
