"""Grouped experts held against the library's way with merged adapters, on the model's own layers: results and gradients.

Both ways are given the same tokens and the same experts for them. Through the whole model, a result that rounds the other
way would send a token to other experts further up, and hide what is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tanren.common.adapted import adapters_at_work
from tanren.common.distances import apart
from tanren.common.experts._adapter import GROUPED, PRODUCTS
from tanren.common.experts._model import NotGroupableError, outermost, within, wrappers

TOKENS, CHOSEN = 64, 2
LIMITS = {torch.float32: (1e-4, 1e-4), torch.bfloat16: (3e-2, 5e-2)}
"""Of ||grouped - library's|| / ||library's||: of the results, and of each gradient. In bfloat16 both are some 7e-3
apart, for the library's way rounds the merged weights; a wrong formula is near 1."""


def prove(model: Any, library: str) -> str:
    """Return how far the two ways are from each other, in words; `library` names the library's way.

    One layer of each shape is taken. Raises NotGroupableError where they are too far apart.
    """
    results, gradients = 0.0, 0.0
    for module in _one_of_each(model):
        off, largest = _compare(module, library)
        results, gradients = max(results, off), max(gradients, largest)
    limits = LIMITS[next(within(module).gate_up_proj.dtype for module in outermost(model))]
    if not (results <= limits[0] and gradients <= limits[1]):
        raise NotGroupableError(
            f"grouped experts differ from the library's on this model: {results:.1e} in the results (limit {limits[0]:.0e}), "
            f"{gradients:.1e} in the gradients (limit {limits[1]:.0e})"
        )
    return f"proven on this model: results within {results:.1e}, gradients within {gradients:.1e} of the library's"


def _one_of_each(model: Any) -> Iterator[torch.nn.Module]:
    seen = set()
    for module in outermost(model):
        experts, adapters = within(module), wrappers(module)
        shapes = tuple(getattr(experts, name).shape for name in PRODUCTS)
        kind = (type(experts), shapes, *((one.parameter_name, one.r["default"]) for one in adapters))
        if kind not in seen:
            seen.add(kind)
            yield module


def _compare(module: Any, library: str) -> tuple[float, float]:
    """Return how far results are from each other, and the gradients that are furthest."""
    experts = within(module)
    weight = experts.gate_up_proj
    generator = torch.Generator().manual_seed(0)
    width = weight.shape[1] if experts.is_transposed else weight.shape[2]
    scores = torch.rand((TOKENS, weight.shape[0]), generator=generator)
    scores[:, 0], scores[:, -1] = 2, -1  # one expert has all tokens, one has none
    index = scores.topk(min(CHOSEN, weight.shape[0])).indices.to(weight.device)
    inputs = [torch.randn((TOKENS, width), generator=generator), torch.rand(index.shape, generator=generator) + 0.1]
    x, weights = (one.to(weight).requires_grad_() for one in inputs)
    above = torch.randn((TOKENS, width), generator=generator).to(weight)
    made = {}
    with adapters_at_work(module) as adapters:
        for name in (library, GROUPED):
            experts.config._experts_implementation = name
            try:
                out = module(x, index, weights)
                made[name] = (out.detach(), *torch.autograd.grad(out, [x, weights, *adapters], above))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a kernel that this GPU or this torch does not have: told, not guessed
                if name == library:
                    raise
                said = str(error).strip().split("\n", 1)[0]
                raise NotGroupableError(f"grouped experts do not run here: {type(error).__name__}: {said}") from error
            finally:
                experts.config._experts_implementation = library
    off, *gradients = (apart(one, other) for one, other in zip(made[GROUPED], made[library], strict=True))
    return off, max(gradients)
