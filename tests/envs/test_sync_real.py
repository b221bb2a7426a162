"""sync with the real installer, in a real environment, from a folder of small real wheels: exact, healing, refusing."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT

UV = shutil.which("uv", path=f"{Path(sys.prefix, 'bin')}:{os.environ.get('PATH', '')}")
PROFILE = f"""
name = "tiny"
environments = ["tiny", "tiny-too"]
why = "a test"
machines = ["{platform.machine()}"]
python = ">=3.11"
compute_capabilities = ["9.0"]
[cuda]
wheels = "cu129"
toolkit = "12.9"
driver = "1.0"
compat = false
"""
BACKEND = """
import base64, hashlib, zipfile
from pathlib import Path
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "ours-0.1-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, name), "w") as wheel:
        wheel.writestr("ours.pth", str(Path.cwd() / "src"))
        wheel.writestr("ours-0.1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: ours\\nVersion: 0.1\\n")
        wheel.writestr("ours-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("ours-0.1.dist-info/RECORD", "")
    return name
"""


def make_wheel(folder: Path, name: str, version: str, text: str = "VALUE = 1\n") -> str:
    """A wheel with one module; returns its sha256."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = {
        path: base64.urlsafe_b64encode(hashlib.sha256(body.encode()).digest()).rstrip(b"=")
        for path, body in files.items()
    }
    files[f"{info}/RECORD"] = (
        "".join(f"{p},sha256={d.decode()},{len(files[p])}\n" for p, d in digest.items()) + f"{info}/RECORD,,\n"
    )
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, body in files.items():
            wheel.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), body)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Tiny:
    """A workspace with the real scripts, one environment of two wheels, and one package of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.wheels, self.venv = root / "workspace", root / "wheels", root / "workspace" / ".venv"
        envs, ours = self.root / "envs", self.root / "packages" / "ours"
        common = self.root / "packages" / "common" / "src" / "tanren" / "common"
        for folder in (envs / "tiny", ours / "src", common, self.root / "tasks"):
            folder.mkdir(parents=True)
        for path in (ROOT / "envs").glob("*.py"):
            shutil.copy(path, envs)
        for name in ("environments.py", "workspace.py"):
            shutil.copy(ROOT / "packages/common/src/tanren/common" / name, common)
        shutil.copy(ROOT / "envs" / "architectures.toml", envs)
        (envs / "tiny" / "profile.toml").write_text(PROFILE)
        for name in ("overrides.in", "gpu-overrides.in"):
            (envs / name).touch()
        (envs / "tiny" / "requirements.in").write_text("alpha==1.0\nbeta==1.0\n")
        (ours / "backend.py").write_text(BACKEND)
        (ours / "src" / "ours_module.py").touch()
        self.declare([])
        assert UV is not None
        found = subprocess.run([UV, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
        (envs / "uv.lock").write_text(f"uv=={found}\n")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.venv)], check=True)
        (self.venv / "bin" / "uv").symlink_to(UV)
        self.hashes = {name: make_wheel(self.wheels, name, "1.0") for name in ("alpha", "beta")}
        self.lock({name: f"{name}==1.0" for name in self.hashes})

    def declare(self, dependencies: list[str]) -> None:
        """What our own package says that it needs."""
        backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        text = f'{backend}[project]\nname = "ours"\nversion = "0.1"\ndependencies = {dependencies}\n'
        (self.root / "packages" / "ours" / "pyproject.toml").write_text(text)

    def lock(self, pinned: dict[str, str]) -> None:
        """Writes the lock as `lock` would, from the inputs that there are."""
        import lock_inputs

        made = f"# inputs: sha256:{lock_inputs.inputs_hash(self.root, self.root / 'envs' / 'tiny')}\n"
        entries = [f"{pin} \\\n    --hash=sha256:{self.hashes[name]}\n" for name, pin in pinned.items()]
        (self.root / "envs" / "tiny" / "requirements.lock").write_text(made + "".join(entries))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment."""
        env = {
            "PATH": f"{self.venv / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.root.parent),
            "VIRTUAL_ENV": str(self.venv),
            "PIXI_PROJECT_ROOT": str(self.root),
            "PIXI_ENVIRONMENT_NAME": "tiny",
            "UV_FIND_LINKS": str(self.wheels),
            "PIP_NO_INDEX": "1",
            "UV_CACHE_DIR": str(self.root.parent / "cache"),
            **variables,
        }
        return subprocess.run([*command], env=env, capture_output=True, text=True, check=False, timeout=120)

    def sync(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs sync."""
        return self.run(str(self.venv / "bin" / "python"), str(self.root / "envs" / "sync.py"), *arguments, **variables)

    def packages(self) -> dict[str, str]:
        """The installed distributions."""
        done = self.run(str(self.venv / "bin" / "uv"), "pip", "list", "--format", "freeze", "--offline")
        return dict(re.findall(r"^(\S+)==(\S+)", done.stdout, re.MULTILINE))


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    if UV is None:
        pytest.skip("uv is not installed in this environment")
    return Tiny(tmp_path)


def messages(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, for one line's test."""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_sync_makes_the_environment_exactly_the_lock_and_does_nothing_twice(tiny: Tiny) -> None:
    done = tiny.sync()
    assert done.returncode == 0, done.stderr
    assert tiny.packages() == {"alpha": "1.0", "beta": "1.0", "ours": "0.1"}
    assert tiny.run(str(tiny.venv / "bin" / "python"), "-c", "import alpha, ours_module").returncode == 0
    second = tiny.sync()
    assert (second.returncode, second.stderr) == (0, "")
    assert tiny.sync(PIXI_ENVIRONMENT_NAME="tiny-too").returncode == 0  # the other name of the same environment
    assert tiny.sync(PIXI_ENVIRONMENT_NAME="tiny-too").stderr == ""


def test_what_was_installed_or_removed_by_hand_is_noticed_and_undone(tiny: Tiny) -> None:
    tiny.sync()
    make_wheel(tiny.wheels, "gamma", "1.0")
    uv = str(tiny.venv / "bin" / "uv")
    assert tiny.run(uv, "pip", "install", "--no-index", "gamma").returncode == 0
    assert tiny.run(uv, "pip", "uninstall", "beta").returncode == 0
    assert "gamma" in tiny.packages()
    assert tiny.sync().returncode == 0
    assert tiny.packages() == {"alpha": "1.0", "beta": "1.0", "ours": "0.1"}


def test_another_file_under_a_locked_name_is_refused(tiny: Tiny) -> None:
    make_wheel(tiny.wheels, "beta", "1.0", "VALUE = 'tampered'\n")
    done = tiny.sync()
    assert done.returncode == 3
    assert "a file is not the one that was locked" in messages(done)
    assert "beta" not in tiny.packages()
    assert not (tiny.venv / "tanren-sync.stamp").exists()
    assert not (tiny.venv / "tanren-sync.unfinished").exists()  # nothing was touched


def test_an_interrupted_sync_is_repaired_by_the_next(tiny: Tiny) -> None:
    tiny.sync()
    site = next((tiny.venv / "lib").glob("python3*")) / "site-packages"
    (site / "alpha.py").unlink()  # a torn package whose metadata says that it is there
    (tiny.venv / "tanren-sync.stamp").unlink()
    (tiny.venv / "tanren-sync.unfinished").touch()
    done = tiny.sync()
    assert "was interrupted" in messages(done)
    assert (site / "alpha.py").exists()
    assert not (tiny.venv / "tanren-sync.unfinished").exists()


def test_a_changed_declaration_is_refused_until_the_lock_is_made_again(tiny: Tiny) -> None:
    tiny.sync()
    tiny.declare(["delta>=2"])
    done = tiny.sync()
    assert done.returncode == 2
    line = messages(done).strip()
    assert line.count("\n") == 0
    assert "envs/tiny/requirements.lock does not fit" in line
    assert "./pixiw run lock" in line
    assert tiny.sync("--stale").returncode == 0  # what the task `lock` itself runs on
    tiny.lock({name: f"{name}==1.0" for name in tiny.hashes})
    assert tiny.sync().returncode == 0


def test_a_machine_that_the_environment_is_not_for_is_refused_in_one_line(tiny: Tiny) -> None:
    profile = tiny.root / "envs" / "tiny" / "profile.toml"
    profile.write_text(PROFILE.replace(platform.machine(), "sparc"))
    done = tiny.sync()
    assert done.returncode == 2
    assert messages(done).strip().count("\n") == 0
    assert f"it is for sparc, and this machine is {platform.machine()}" in done.stderr
    assert tiny.packages() == {}


def test_an_unknown_environment_is_refused_with_the_nearest_name(tiny: Tiny) -> None:
    done = tiny.sync(PIXI_ENVIRONMENT_NAME="tiny-to")
    assert done.returncode == 2
    assert "did you mean 'tiny-too'?" in messages(done)


def test_a_release_wheel_in_a_folder_is_taken_from_there_without_a_network(tiny: Tiny) -> None:
    address = "https://release.invalid/beta-1.0-py3-none-any.whl"
    tiny.lock({"alpha": "alpha==1.0", "beta": f"beta @ {address}"})
    assert tiny.sync().returncode == 0
    assert tiny.packages()["beta"] == "1.0"
    make_wheel(tiny.wheels, "beta", "1.0", "VALUE = 'tampered'\n")
    done = tiny.sync("--force")
    assert done.returncode == 3
    assert "take it out of the folder" in messages(done)


def test_a_file_that_cannot_be_had_is_named_and_nothing_is_stamped(tiny: Tiny) -> None:
    (tiny.wheels / "alpha-1.0-py3-none-any.whl").unlink()
    done = tiny.sync()
    assert done.returncode == 3
    assert "alpha" in messages(done)
    assert not (tiny.venv / "tanren-sync.stamp").exists()
