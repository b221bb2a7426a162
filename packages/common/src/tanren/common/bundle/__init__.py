"""Air-gapped bundles: every file of both locks of one environment in a folder, from which `pixiw --bundle` installs."""

from ._bundle import Made, make_bundle, verify_bundle

__all__ = ["Made", "make_bundle", "verify_bundle"]
