"""A checkpoint: everything that the steps after it depend on, so that a resumed run takes the same ones bit for bit.

A step that was broken off is done again from the state before it, and samples the same completions. Those that are under way for
the next step (rollout.ahead) were sampled with weights that are gone by then: the checkpoint has them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tanren.common.run import RunDirectory, folder_written_aside
from tanren.grpo.ahead import Ahead
from tanren.grpo.collector import Collector
from tanren.grpo.engine import Engine
from tanren.grpo.trainer import GrpoTrainer

WEIGHTS, OPTIMIZER, STATE = "trained.safetensors", "optimizer.pt", "state.pt"


def save_checkpoint(
    run: RunDirectory,
    step: int,
    model: Any,
    trainer: GrpoTrainer,
    collector: Collector,
    engine: Engine,
    ahead: Ahead | None,
) -> None:
    """Write the checkpoint after `step` aside, and rename it; completions under way are waited for first."""
    under_way = dict(ahead.state()) if ahead is not None else {}
    weights = {name: weight.detach().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}
    state = {
        "order": collector.order.state(),
        "engine": dict(engine.state()),
        "trainer": dict(trainer.state()),
        "ahead": under_way,
        "random": _random_states(),
    }
    with folder_written_aside(run.checkpoint(step)) as folder:
        save_file(weights, folder / WEIGHTS)
        torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER)
        torch.save(state, folder / STATE)


def restore_checkpoint(
    folder: Path, model: Any, trainer: GrpoTrainer, collector: Collector, engine: Engine, ahead: Ahead | None
) -> None:
    """Take everything up as it was after the checkpoint's step."""
    weights, named = load_file(folder / WEIGHTS), dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)
    trainer.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu"))
    state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    collector.order.take_up(state["order"])
    engine.take_up(state["engine"])
    trainer.take_up(state["trainer"])
    if ahead is not None:
        ahead.take_up(state["ahead"])
    _take_up_random(state["random"])


def _random_states() -> dict[str, Any]:
    """Return the random states of this process: dropout draws from torch's, a pack's reward may from any."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    version, internal, next_gauss = random.getstate()
    return {
        "python": [version, list(internal), next_gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _take_up_random(states: dict[str, Any]) -> None:
    version, internal, next_gauss = states["python"]
    random.setstate((version, tuple(internal), next_gauss))
    kind, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
