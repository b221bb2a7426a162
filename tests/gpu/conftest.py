"""GPU tests run as training does: with the variables that must be set before CUDA starts."""

from __future__ import annotations

from tanren.common.models.device import set_cuda_variables

set_cuda_variables()
