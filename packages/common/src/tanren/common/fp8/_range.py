"""The numbers of float8_e4m3fn."""

from __future__ import annotations

import torch

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
TINY = 1e-12
"""The least largest value of a row: the scale of a row of zeros is no zero."""
