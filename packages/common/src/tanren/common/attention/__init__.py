"""Attention: which kernel keeps packed samples apart, why, and the proof that it computes what it should.

This package imports no torch; what computes lies in `packed` (the kernels, as transformers calls them) and is imported
by those who train.
"""

from tanren.common.attention._choice import ATTENTION_VARIABLE, Choice, GpuFacts, gpu_facts, installed_kernels
from tanren.common.attention._proof import Proof, prove_kernel, runnable_kernels
from tanren.common.attention._select import generation_kernel, select_attention
from tanren.common.attention._traits import AttentionTraits, traits_of

__all__ = [
    "ATTENTION_VARIABLE",
    "AttentionTraits",
    "Choice",
    "GpuFacts",
    "Proof",
    "generation_kernel",
    "gpu_facts",
    "installed_kernels",
    "prove_kernel",
    "runnable_kernels",
    "select_attention",
    "traits_of",
]
