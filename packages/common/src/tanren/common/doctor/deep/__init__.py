"""`tanren doctor --deep`: proves that the parts compute, and compute right, where the default run looks at versions.

This process imports no torch. A proof (`Probe`) is a function that a child calls: all proofs of a tier share one child,
and one that kills it, or fails, costs its own row alone. It answers with errors against a reference (`ProbeResult`);
they are judged here.
"""

from tanren.common.doctor.deep._ceilings import measure_ceilings
from tanren.common.doctor.deep._check import check_deep
from tanren.common.doctor.deep._names import TIERS, named_tiers, with_tiers_last

__all__ = ["TIERS", "check_deep", "measure_ceilings", "named_tiers", "with_tiers_last"]
