"""install-flash-attn: what it builds for, where it lies, and that the lock's FlashAttention-4 stays the lock's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import build_flash_attn
import pytest
import sync
from stop import Stop

from .conftest import ROOT


@pytest.mark.parametrize(
    ("capability", "arch"),
    [("8.0", "80"), ("8.6", "80"), ("8.9", "80"), ("9.0", "90"), ("10.0", "100"), ("10.3", "100"), ("12.1", "120")],
)
def test_one_architecture_is_built_and_it_serves_the_gpu(capability: str, arch: str) -> None:
    assert build_flash_attn.architecture(capability) == arch


@pytest.mark.parametrize("capability", ["7.5", "11.0", "9", "sm_90", ""])
def test_what_it_has_no_kernels_for_is_refused(capability: str) -> None:
    with pytest.raises(Stop, match=r"it has 8\.x, 9\.x, 10\.x, 12\.x") as stop:
        build_flash_attn.architecture(capability)
    assert stop.value.code == 2


def test_without_a_gpu_the_architecture_must_be_named() -> None:
    script = str(ROOT / "envs" / "build_flash_attn.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    if "nvcc" in done.stderr:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 2
    assert "no GPU is found" in done.stderr
    assert "--arch 9.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_build_takes_no_prebuilt_wheel_and_the_headers_of_torchs_own_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPATH", "/toolkit/include")
    for name in ("cu13", "cudnn"):
        (tmp_path / "nvidia" / name / "include").mkdir(parents=True)
    found = build_flash_attn.build_environment(tmp_path, tmp_path, "90", 3)
    assert found["FLASH_ATTENTION_FORCE_BUILD"] == "TRUE"
    assert found["FLASH_ATTN_CUDA_ARCHS"] == "90"
    assert found["MAX_JOBS"] == "3"
    own = [f"{tmp_path}/nvidia/cu13/include", f"{tmp_path}/nvidia/cudnn/include"]
    assert found["CPATH"] == ":".join(["/toolkit/include", *own])


def side_folder(prefix: Path, torch: str) -> Path:
    """A build's result, with a copy of FlashAttention-4's part that is older."""
    folder = prefix / build_flash_attn.EXTRA
    (folder / "flash_attn" / "cute").mkdir(parents=True)
    (folder / "flash_attn" / "__init__.py").write_text("WHICH = 2\n")
    (folder / "flash_attn" / "cute" / "__init__.py").write_text("WHICH = 'old'\n")
    note = {"version": "2.8.3", "torch": torch, "compute_capability": "9.0"}
    (folder / "built.json").write_text(json.dumps(note))
    return folder


def test_both_flash_attentions_are_found_under_their_shared_name(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "flash_attn" / "cute").mkdir(parents=True)
    (site / "flash_attn" / "cute" / "__init__.py").write_text("WHICH = 4\n")
    build_flash_attn.join_with_flash_attention_4(side_folder(tmp_path, "2.11.0"))
    build_flash_attn.attach(tmp_path, site, wanted=True)
    code = f"import site; site.addsitedir({str(site)!r}); import flash_attn, flash_attn.cute as f; print(flash_attn.WHICH, f.WHICH)"
    # -S: without a FlashAttention-4 that is installed here
    done = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 4\n"


@pytest.mark.parametrize(("torch", "attached"), [("2.11.0", True), ("2.10.0", False)])
def test_sync_keeps_a_build_while_the_locked_torch_is_the_one_it_was_built_for(
    tmp_path: Path, torch: str, attached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sync.site_packages(tmp_path)
    site.mkdir(parents=True)
    folder = side_folder(tmp_path, torch)
    lock = (ROOT / "envs" / "b300" / "requirements.lock").read_text()
    said = sync.attach_extra(tmp_path, lock)
    assert (site / build_flash_attn.POINTER).exists() == attached
    assert folder.exists()
    assert bool(said) == attached
    assert ("is switched off" in capsys.readouterr().err) != attached
    assert sync.attach_extra(tmp_path / "elsewhere", lock) == ""
