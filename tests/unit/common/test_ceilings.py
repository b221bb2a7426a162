"""The file of a device's measured limits: written whole, read by the device's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.ceilings import Ceilings, cpu_name, read_ceilings, write_ceilings
from tanren.common.errors import UserError

H100 = Ceilings(
    "NVIDIA H100 80GB HBM3", 2.9e12, 7.2e14, 2.1e-6, "bfloat16", "580.95", "2.11", "2026-01-02T03:04:05+00:00"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANREN_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_a_measurement_is_read_back_and_a_newer_one_takes_its_place(cache: Path) -> None:
    assert read_ceilings(H100.device) is None
    assert write_ceilings(replace(H100, launch_seconds=9.0)) == write_ceilings(H100)
    assert read_ceilings(H100.device) == H100
    assert [path.name for path in (cache / "ceilings").iterdir()] == ["nvidia-h100-80gb-hbm3.json"]


def test_another_device_has_no_measurement_even_where_the_file_is_named_alike() -> None:
    write_ceilings(H100)
    assert read_ceilings("NVIDIA H100-80GB-HBM3") is None
    assert read_ceilings("NVIDIA B300") is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"device": "NVIDIA H100 80GB HBM3"}'])
def test_a_file_that_holds_something_else_is_named(text: str) -> None:
    path = write_ceilings(H100)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}: not the measurement of a device: .*measure again"):
        read_ceilings(H100.device)


def test_the_cpu_has_a_name() -> None:
    assert cpu_name().endswith(" threads")
