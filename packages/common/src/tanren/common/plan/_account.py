"""An account of every tensor's memory while a piece of code runs on tensors without data (torch's meta device).

Each storage is counted once, from the operation that makes it to the moment when nothing holds it any more, under the
category that is set at the time. So the account sees what autograd really saves for the backward pass, whatever the
modelling code does. Operations are counted with their products and their bytes, from which a time is predicted.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tanren.common.plan._operations import Operation, operation_of

BLOCK = 512
"""Bytes: torch's CUDA allocator hands out multiples of it (kMinBlockSize, c10/cuda/CUDACachingAllocator)."""


class Account(TorchDispatchMode):
    """Counts live bytes by category, the categories at the peak, and the operations."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.category = "other"
        self.live: Counter[str] = Counter()
        self.peak: Mapping[str, int] = {}
        self.peak_bytes = 0
        self.operations: Counter[Operation] = Counter()
        self._entries: dict[int, tuple[weakref.ref[torch.UntypedStorage], str, int]] = {}
        self._total = 0

    def hold(self, tensors: Iterable[torch.Tensor], category: str) -> None:
        """Count tensors that are there already, or move them to another category."""
        for tensor in tensors:
            self._forget(id(tensor.untyped_storage()))
            self._count(tensor, category)

    @contextmanager
    def under(self, category: str) -> Iterator[None]:
        """Count what is made inside under a category."""
        before, self.category = self.category, category
        try:
            yield
        finally:
            self.category = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and account for it."""
        del types
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            # There is no value to read. The library asks for one in a forward pass: is this a single sample (no mask)?
            return False
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        operation = operation_of(func, args, inputs, outputs)
        if operation is not None:
            self.operations[operation] += 1
        for tensor in outputs:
            self._count(tensor, self.category)
        return result

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
