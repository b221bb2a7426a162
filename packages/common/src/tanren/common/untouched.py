"""What is done beside training leaves it as it was: the same numbers, bit for bit, as without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


@contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Put back every random state and the model's mode (training or not) when what is inside has ended."""
    training = model.training
    python, array = random.getstate(), numpy.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(array)
            model.train(training)
