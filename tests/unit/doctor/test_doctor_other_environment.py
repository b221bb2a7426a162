"""tanren doctor --env: this machine judged for an environment that does not run, installed or not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.doctor import Subject, Verdict, examine
from tanren.common.doctor import _subject as subject_module
from tanren.common.doctor._finding import Finding
from tanren.common.doctor._place import STAMP
from tanren.common.doctor._subject import environment_folder, read_subject, read_surroundings
from tanren.common.errors import UserError

from .conftest import ROOT, cuda_tool, script
from .recorded_gpus import H100, reading

Command = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a workspace with our environments, none of them installed, as the process of `default` sees it."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pixi.toml", tmp_path)
    (tmp_path / "tasks").mkdir()
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(tmp_path))
    monkeypatch.setenv("PIXI_ENVIRONMENT_NAME", "default")
    monkeypatch.setattr(subject_module, "read_nvml", lambda: reading("580", H100))
    return tmp_path


def rows(subject: Subject) -> dict[str, Finding]:
    """Return the findings by name."""
    return {finding.what: finding for finding in examine(subject)}


def installed(root: Path, environment: str) -> Path:
    """Make the folder of an environment: its toolkit, and a Python that is this one from another place."""
    prefix = root / ".pixi" / "envs" / environment
    (prefix / "conda-meta").mkdir(parents=True)
    for tool in ("nvcc", "ptxas"):
        cuda_tool(prefix / "bin" / tool, "12.9")
    site_packages = prefix / "lib" / "python3.12" / "site-packages"
    site_packages.mkdir(parents=True)
    answer = f'["{prefix}", "3.12.11", "{prefix}/include", "{site_packages}", "{site_packages}"]'
    script(prefix / "bin" / "python", f"echo '{answer}'")
    return prefix


def test_before_it_is_installed_the_machine_is_judged_and_nothing_is_refused_for_being_another(root: Path) -> None:
    found = rows(read_subject(None, True, env="train"))
    assert found["environment"].verdict is Verdict.WARNING
    assert found["environment"].fix == "install it: ./pixiw run -e train sync"
    assert {"machine", "glibc", "memory", "NVIDIA driver", "GPU 0", "limits"} <= found.keys()
    assert "environment (12 GiB)" in next(row.found for what, row in found.items() if what.startswith("disk "))
    assert not {"packages", "sync", "nvcc", "C compiler", "module search"} & found.keys()
    assert "its contents" not in found


def test_an_installed_one_is_looked_into_but_for_what_its_activation_sets(root: Path) -> None:
    prefix = installed(root, "train")
    (prefix / STAMP).write_text("fingerprint\n", encoding="utf-8")
    found = rows(read_subject(None, True, env="train"))
    assert found["environment"].verdict is Verdict.OK
    assert str(prefix) in found["environment"].found
    for what in ("sync", "Python", "nvcc", "ptxas", "ptxas architectures"):
        assert found[what].verdict is Verdict.OK, found[what]
    assert found["Python"].found == "3.12.11"
    assert found["packages"].found.startswith("0 as locked")
    assert not {"CUDA_HOME", "TRITON_PTXAS_PATH", "C compiler", "module search", "LD_LIBRARY_PATH"} & found.keys()


def test_one_whose_python_does_not_start_is_refused_with_its_words(root: Path) -> None:
    prefix = installed(root, "train")
    script(prefix / "bin" / "python", "echo 'libpython3.12.so.1.0: cannot open' >&2; exit 127")
    found = rows(read_subject(None, True, env="train"))
    assert found["environment"].verdict is Verdict.REFUSED
    assert "does not start: libpython3.12.so.1.0: cannot open" in found["environment"].found
    assert found["environment"].fix == "./pixiw reinstall --locked -e train"


def test_the_running_one_by_its_name_is_looked_at_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = read_surroundings(None, True, env="default")
    assert subject.runs
    assert subject.prefix == Path(sys.prefix)
    monkeypatch.delenv("PIXI_ENVIRONMENT_NAME")
    assert not read_surroundings(None, True, env="default").runs


def test_without_pixi_the_cpu_environment_is_in_venv(root: Path) -> None:
    assert environment_folder(root, "default") == root / ".pixi" / "envs" / "default"
    (root / ".venv").mkdir()
    assert environment_folder(root, "default") == root / ".venv"
    assert environment_folder(root, "train") == root / ".pixi" / "envs" / "train"
    (root / ".pixi" / "envs" / "default").mkdir(parents=True)
    assert environment_folder(root, "default") == root / ".pixi" / "envs" / "default"


def test_an_unknown_name_and_both_flags_are_the_users_mistake(root: Path, command: Command) -> None:
    with pytest.raises(UserError, match="did you mean 'b300'"):
        read_surroundings(None, True, env="b30")
    with pytest.raises(UserError, match="name one of them"):
        read_surroundings("train", True, env="train")
    done = command("tanren.common.cli", "doctor", "--recommend", "--env", "train")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: --recommend looks for the environment")
    done = command("tanren.common.cli", "doctor", "--env", "train", "--deep")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("./pixiw run -e train doctor --deep\nHEAVY=")
