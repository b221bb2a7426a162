"""Mixtures of experts in training: grouped products, with adapters beside the weights (docs/speed.md)."""

from tanren.common.experts._choice import ExpertsChoice, adapter_classes, choose_experts
from tanren.common.experts._products import WITHOUT_DATA as PRODUCTS_WITHOUT_DATA

__all__ = ["PRODUCTS_WITHOUT_DATA", "ExpertsChoice", "adapter_classes", "choose_experts"]
