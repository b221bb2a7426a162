"""A training step traced on tensors without data. Imports torch and transformers."""

from tanren.common.plan._account import Account
from tanren.common.plan._empty import Shape, empty_model, read_shape, shape_of
from tanren.common.plan._flash import attended_pairs, attention_stands_in
from tanren.common.plan._quantised import quantise
from tanren.common.plan._step import Loss, NotTraceableError, StepTrace, trace_step

__all__ = [
    "Account",
    "Loss",
    "NotTraceableError",
    "Shape",
    "StepTrace",
    "attended_pairs",
    "attention_stands_in",
    "empty_model",
    "quantise",
    "read_shape",
    "shape_of",
    "trace_step",
]
