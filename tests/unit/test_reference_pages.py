"""The reference pages are those that docs/generate.py would write now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_pages_are_not_stale() -> None:
    script = [sys.executable, "docs/generate.py", "--check"]
    outcome = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
