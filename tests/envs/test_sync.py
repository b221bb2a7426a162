"""sync: which torch it takes, whose settings it hands on, that it does nothing twice, and that it heals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import index_settings
import pytest
import release_wheels
import sync
import torch_build
from stop import Stop

from .conftest import ROOT

DEFAULT = ROOT / "envs" / "default"
NO_CONF = {"PIP_CONFIG_FILE": "/dev/null", "HOME": "/nonexistent"}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for this interpreter's environment, and no settings of pip."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(ROOT))
    monkeypatch.setenv("PIXI_ENVIRONMENT_NAME", "default")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that sync would run, in order; none is run."""
    seen: list[list[str]] = []
    monkeypatch.setattr(sync, "run", lambda _what, command, *_: seen.append(command))
    monkeypatch.setattr(torch_build, "unreachable", lambda _address: "no network in this test")
    return seen


def test_a_sync_installs_by_hash_then_ours_and_a_second_one_starts_no_process(
    environment: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync.sync(ROOT)
    installer, packages, ours, compilation = commands
    assert "--require-hashes" in installer
    assert packages[1:3] == ["pip", "sync"]
    assert "--require-hashes" in packages
    assert compilation[1:3] == ["-m", "compileall"]
    assert [a for a in ours if a.startswith(str(ROOT / "packages"))] == sorted(map(str, ROOT.glob("packages/*")))
    commands.clear()

    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    sync.sync(ROOT)
    assert commands == []
    sync.sync(ROOT, force=True)
    assert len(commands) == 4


def test_an_interrupted_sync_leaves_no_stamp_and_is_done_again(
    environment: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync.sync(ROOT)
    assert (environment / sync.STAMP).exists()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sync, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sync.sync(ROOT, force=True)
    assert not (environment / sync.STAMP).exists()
    commands.clear()
    sync.sync(ROOT)
    assert len(commands) == 4
    assert (environment / sync.STAMP).exists()


def test_an_environment_without_a_lock_is_refused_and_nothing_is_touched(
    environment: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXI_ENVIRONMENT_NAME", "no-such")
    with pytest.raises(Stop, match="there is no environment 'no-such'") as stop:
        sync.sync(ROOT)
    assert stop.value.code == 2
    assert list(environment.iterdir()) == []


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "PIXI_PROJECT_ROOT"])
def test_a_python_that_is_not_the_workspaces_keeps_its_packages(
    environment: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/elsewhere")
    with pytest.raises(Stop, match="no environment of this workspace"):
        sync.sync(ROOT)
    monkeypatch.delenv(variable)
    with pytest.raises(Stop):
        sync.sync(ROOT)
    assert commands == []


def test_a_failed_phase_ends_with_its_reason_and_no_stamp(environment: Path) -> None:
    script = "import sys; sys.exit('error: Failed to fetch: dns error')"
    with pytest.raises(Stop, match="index cannot be reached") as stop:
        sync.run("downloading", [sys.executable, "-c", script], {})
    assert stop.value.code == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("Hash mismatch for `a==1`", "not the one that was locked"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "not the one that was locked"),
        ("error sending request for url", "cannot be reached"),
        ("something new", "the installer says"),
    ],
)
def test_the_installers_words_become_a_reason(words: str, reason: str) -> None:
    assert reason in sync.reason(words)


# --- which torch ---------------------------------------------------------------------------------


def profile(folder: Path, wheel: bytes) -> None:
    (folder / "profile.toml").write_text(
        '[torch-cpu]\nversion = "2.13.0"\naddress = "http://here/torch-{version}-{tag}-{machine}.whl"\n'
        f'[torch-cpu.sha256]\ncp311-linux-x86_64 = "{hashlib.sha256(wheel).hexdigest()}"\n'
    )


def test_torch_comes_from_a_wheel_folder_then_the_release_then_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(tmp_path, b"wheel")
    key = "cp311-linux-x86_64"
    wheel = tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(b"wheel")
    monkeypatch.setattr(torch_build, "unreachable", lambda _address: "")
    choice = torch_build.choose(tmp_path, [tmp_path], False, key)
    assert choice.requirement == "torch==2.13.0+cpu"
    choice = torch_build.choose(tmp_path, [], False, key)
    assert choice.requirement == "torch @ http://here/torch-2.13.0-cp311-x86_64.whl"
    choice = torch_build.choose(tmp_path, [], True, key)
    assert choice.cuda_runtime
    assert "the index is switched off" in choice.why
    monkeypatch.setattr(torch_build, "unreachable", lambda _address: "refused")
    wheel.write_bytes(b"another wheel")
    with pytest.raises(release_wheels.WrongWheel, match="is not the file that was locked"):
        torch_build.choose(tmp_path, [tmp_path], False, key)
    choice = torch_build.choose(tmp_path, [], False, key)
    assert choice.cuda_runtime
    assert "refused" in choice.why


@pytest.mark.parametrize(("key", "cuda"), [("cp314-linux-x86_64", True), ("cp312-darwin-arm64", False)])
def test_a_machine_without_a_recorded_cpu_build_gets_the_ordinary_one(tmp_path: Path, key: str, cuda: bool) -> None:
    profile(tmp_path, b"wheel")
    choice = torch_build.choose(tmp_path, [tmp_path], False, key)
    assert choice.cuda_runtime == cuda
    assert f"no CPU build is recorded for {key}" in choice.why


def test_the_derived_lock_differs_in_torch_alone() -> None:
    lock = (DEFAULT / "requirements.lock").read_text()
    cpu = torch_build.Choice("torch==2.13.0+cpu", "0" * 64, False, "", "")
    derived = torch_build.derive(lock, cpu)
    assert f"\ntorch==2.13.0+cpu \\\n    --hash=sha256:{'0' * 64}\ntqdm==" in derived
    before, after = lock.split("\ntorch=="), derived.split("\ntorch==")
    assert before[0] == after[0]
    assert before[1].partition("\ntqdm")[2] == after[1].partition("\ntqdm")[2]
    assert torch_build.derive(lock, torch_build.Choice("", "", True, "", "")) == lock


def test_packages_are_counted_once_whatever_the_python_and_without_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text("a==1 ; x\n    --hash=y\na==2 ; y\nb @ http://c\n# d\ne==1 ; sys_platform == 'win32' \\\n")
    assert torch_build.count([path]) == 2


# --- the user's settings --------------------------------------------------------------------------


def test_pips_settings_reach_uv_and_missing_folders_do_not(tmp_path: Path) -> None:
    environ = {
        **NO_CONF,
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_EXTRA_INDEX_URL": f"https://more.example/simple file://{tmp_path} file:///no/such",
        "PIP_FIND_LINKS": f"{tmp_path} /no/such",
        "PIP_CERT": "/etc/ca.pem",
        "PIP_PROXY": "http://proxy.example:3128",
    }
    settings = index_settings.read(environ)
    assert settings.variables == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": f"https://more.example/simple file://{tmp_path}",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(tmp_path),
        "SSL_CERT_FILE": "/etc/ca.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "HTTP_PROXY": "http://proxy.example:3128",
    }
    assert settings.folders == [tmp_path]
    assert not settings.no_index


def test_a_setting_of_uv_wins_and_folders_add_up(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    environ = {
        **NO_CONF,
        "PIP_INDEX_URL": "https://pip.example",
        "UV_DEFAULT_INDEX": "https://uv.example",
        "PIP_FIND_LINKS": str(other),
        "UV_FIND_LINKS": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "UV_REQUIRE_HASHES": "1",
    }
    settings = index_settings.read(environ)
    assert settings.folders == [tmp_path, other]
    assert settings.no_index
    handed = settings.environment(environ)
    assert handed["UV_DEFAULT_INDEX"] == "https://uv.example"
    assert handed["UV_FIND_LINKS"] == f"{tmp_path},{other}"
    assert settings.flags == ["--no-index"]  # uv has no variable for it
    assert index_settings.read({**NO_CONF, "UV_OFFLINE": "1"}).no_index
    assert index_settings.read(NO_CONF).flags == []
    assert "UV_REQUIRE_HASHES" not in handed


def test_pip_conf_is_read_as_pip_reads_it(tmp_path: Path) -> None:
    conf = tmp_path / ".config" / "pip" / "pip.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(
        "[global]\nindex_url = https://global.example\ntimeout = 99\n"
        "extra-index-url =\n  https://a.example\n  https://b.example\n"
        "[install]\nindex-url = https://install.example\n"
    )
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": "/nonexistent", "PIP_TIMEOUT": "7"}
    variables = index_settings.read(environ).variables
    assert variables["UV_DEFAULT_INDEX"] == "https://install.example"
    assert "https://a.example https://b.example" in variables["UV_INDEX"]
    assert variables["UV_HTTP_TIMEOUT"] == "7"


def test_pip_itself_sees_the_same_settings() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this environment has no pip")
    ours = index_settings.pip_settings(os.environ)
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in ("global", ":env:"):
            assert name in ours, line
            if section == ":env:":
                assert repr(ours[name]) == value
