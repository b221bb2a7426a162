"""Makes `tasks.extraction` importable, as the pack is a folder and not an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
