"""Makes `tasks.tes` importable, as the pack is a folder and not an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the data that lies beside the checkout."""
    for place in (ROOT.parent / "shared", ROOT.parent.parent / "shared"):
        if (place / "data" / "tes-weather").is_dir():
            return place / "data"
    pytest.skip("no shared/data/tes-weather beside the checkout")
