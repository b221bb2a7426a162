"""Weights that bitsandbytes keeps in 4 bits, written out in the precision of products."""

from tanren.common.nf4._dequantise import BLOCK, BLOCKS, dequantise

__all__ = ["BLOCK", "BLOCKS", "dequantise"]
