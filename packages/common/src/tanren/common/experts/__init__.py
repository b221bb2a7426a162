"""Mixtures of experts in training: grouped products, with adapters beside the weights (docs/speed.md)."""

from tanren.common.experts._choice import ExpertsChoice, adapter_classes, choose_experts
from tanren.common.experts._stand_in import FLOPS

__all__ = ["FLOPS", "ExpertsChoice", "adapter_classes", "choose_experts"]
