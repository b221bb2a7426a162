"""pixiw --bundle: installs from a bundle alone, through the loopback mirror, and refuses one that does not fit."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import bundle_mirror
import bundle_run
import index_run
import pytest
import release_wheels

from tanren.common.bundle_manifest import BundleFile, BundleManifest, lock_hashes

from .bundle_parts import CHANNEL, Site, Source, make_conda, make_wheel, sha256
from .conftest import ROOT, Workspace

COMMON = "packages/common/src/tanren/common"
MACHINE_SIDE = [
    "envs/bundle_mirror.py",
    "envs/bundle_run.py",
    f"{COMMON}/bundle_manifest.py",
    f"{COMMON}/errors.py",
    f"{COMMON}/workspace.py",
]
# A pixi that says what it was given and fetches one conda file by way of the mirror in its configuration.
PIXI = f"""
{sys.executable} - "$@" <<'PYTHON'
import json, os, sys, tomllib, urllib.request
from pathlib import Path
home = Path(os.environ["PIXI_HOME"])
config = tomllib.loads((home / "config.toml").read_text())
mirror = config["mirrors"]["{CHANNEL.rstrip("/")}"][0]
names = ("PIXI_FROZEN", "PIXI_LOCKED", "UV_FIND_LINKS", "PIP_NO_INDEX", "PIP_FIND_LINKS", "NO_PROXY")
with urllib.request.urlopen(mirror + "noarch/native-1.0-0.conda") as answer:
    got = len(answer.read())
facts = dict(arguments=sys.argv[1:], config=config, home=str(home), got=got, mirror=mirror)
print(json.dumps(dict(facts, env={{name: os.environ.get(name) for name in names}})))
PYTHON
exit 7
"""


class Bundled(Workspace):
    """A workspace beside a finished bundle of its own locks."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        shutil.rmtree(self.root)
        self.source = Source(self.root, Site())
        self.source.pin_pixi(PIXI)
        for path in ["envs/index_run.py", "envs/stop.py", *MACHINE_SIDE]:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, self.root / path)
        self.bundle = root / "the bundle"

    def write_bundle(self, environment: str = "train", *, python_only: bool = False, **changes: object) -> None:
        """Writes a bundle of the workspace's files."""
        shutil.rmtree(self.bundle, ignore_errors=True)
        kinds = {"wheel": self.source.wheels}
        if not python_only:
            kinds |= {"conda": self.source.conda}
            release = "pixi-x86_64-unknown-linux-musl.tar.gz"
            kinds |= {"pixi": [(release, self.source.site.files[f"release/{release}"])]}
        folders = {"wheel": "wheels", "conda": "conda/noarch", "pixi": "pixi"}
        files = []
        for kind, contents in kinds.items():
            (self.bundle / folders[kind]).mkdir(parents=True)
            for name, data in contents:
                (self.bundle / folders[kind] / name).write_bytes(data)
                files.append(BundleFile(kind, f"{folders[kind]}/{name}", len(data), sha256(data)))
        locks = [f"envs/{environment}/requirements.lock", "envs/uv.lock", *([] if python_only else ["pixi.lock"])]
        facts: dict[str, object] = {
            "environments": (environment,),
            "python_only": python_only,
            "platform": "linux-64",
            "machine": os.uname().machine,
            "python": f"3.{sys.version_info.minor}.1",
            "channel": CHANNEL,
            "locks": lock_hashes(self.root, locks),
            "files": tuple(files),
        }
        manifest = BundleManifest(**{**facts, **changes})  # type: ignore[arg-type]
        (self.bundle / "manifest.json").write_text(manifest.text())

    def from_bundle(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.pixiw("--bundle", str(self.bundle), *arguments, **variables)


@pytest.fixture
def bundled(tmp_path: Path) -> Bundled:
    if (sys.platform, os.uname().machine) != ("linux", "x86_64"):
        pytest.skip("the bundle of these tests is for x86-64 Linux")
    made = Bundled(tmp_path)
    made.write_bundle()
    return made


# --- with pixi --------------------------------------------------------------------------------------


def test_pixi_runs_from_the_bundle_alone(bundled: Bundled) -> None:
    user = bundled.home / ".pixi" / "config.toml"
    user.parent.mkdir()
    user.write_text("# the user's own\n")
    done = bundled.from_bundle(
        "run", "-e", "train", "x", "--lr", "1e-4", PIXI_LOCKED="1", NO_PROXY="here", HTTP_PROXY="http://127.0.0.1:9"
    )
    assert done.returncode == 7, done.stderr
    facts = json.loads(done.stdout)
    assert facts["arguments"] == ["run", "-e", "train", "x", "--lr", "1e-4"]
    assert facts["got"] == len(dict(bundled.source.conda)["native-1.0-0.conda"])
    wheels = (bundled.bundle / "wheels").as_uri()
    assert facts["env"] == {
        "PIXI_FROZEN": "true",
        "PIXI_LOCKED": None,
        "UV_FIND_LINKS": wheels,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": wheels,
        "NO_PROXY": "here,127.0.0.1",
    }
    assert facts["config"]["mirrors"] == {CHANNEL: [facts["mirror"]], CHANNEL.rstrip("/"): [facts["mirror"]]}
    assert facts["mirror"].startswith("http://127.0.0.1:")
    assert facts["mirror"].endswith("/")  # pixi joins paths to it
    assert user.read_text() == "# the user's own\n"
    assert not Path(facts["home"]).exists()
    with pytest.raises(urllib.error.URLError):  # the server ended with pixi
        urllib.request.urlopen(facts["mirror"] + "noarch/native-1.0-0.conda")


def test_mirrors_of_the_workspace_that_pixi_would_take_first_are_named(bundled: Bundled) -> None:
    (bundled.root / ".pixi").mkdir()
    (bundled.root / ".pixi" / "config.toml").write_text('[mirrors]\n"https://x.example/" = ["https://y.example/"]\n')
    assert "config.toml has [mirrors]" in bundled.from_bundle("run", "-e", "train", "x").stderr


def test_the_bytes_are_checked_once(bundled: Bundled) -> None:
    assert "checking the bundle, 5 files" in bundled.from_bundle("run", "-e", "train", "x").stderr
    assert bundled.from_bundle("run", "-e", "train", "x").stderr.startswith("pixiw: pixi 0.75.0 (.pixi/bin), from the")


def test_a_locked_run_is_not_made_frozen(bundled: Bundled) -> None:
    done = bundled.from_bundle("run", "--locked", "-e", "train", "x")
    assert json.loads(done.stdout)["env"]["PIXI_FROZEN"] is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_pixi_and_leaves_nothing(bundled: Bundled, number: signal.Signals, code: int) -> None:
    bundled.source.pin_pixi("echo up; exec sleep 30\n")
    bundled.write_bundle()
    command = ["sh", str(bundled.root / "pixiw"), "--bundle", str(bundled.bundle), "run", "-e", "train", "x"]
    env = {"PATH": f"{bundled.bin}:/usr/bin:/bin", "HOME": str(bundled.home)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: to the whole group
        else:
            process.send_signal(number)
        assert process.wait(timeout=10) == code
    assert not list((bundled.root / ".pixi").glob("bundle-*/"))


def test_a_release_of_another_checksum_is_never_run(bundled: Bundled) -> None:
    wrapper = bundled.root / "pixiw"
    wrapper.write_text(wrapper.read_text().replace("sum=", "sum=0"))
    done = bundled.from_bundle("run", "-e", "train", "x")
    assert done.returncode == 3
    assert "refused: " in done.stderr
    assert done.stdout == ""
    assert list((bundled.root / ".pixi" / "bin").iterdir()) == []


# --- refused ----------------------------------------------------------------------------------------


def change_wheel(bundled: Bundled) -> None:
    path = bundled.bundle / "wheels" / "alpha-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def change_conda(bundled: Bundled) -> None:
    path = bundled.bundle / "conda" / "noarch" / "native-1.0-0.conda"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def change_lock(bundled: Bundled) -> None:
    (bundled.root / "pixi.lock").write_text("{}")


def add_file(bundled: Bundled) -> None:
    (bundled.bundle / "wheels" / "evil-1.0-py3-none-any.whl").touch()


REFUSED: list[tuple[Callable[[Bundled], object], list[str], int, str]] = [
    (lambda b: None, ["run", "-e", "b300", "x"], 2, "is a bundle of 'train' and 'b300' was asked for"),
    (lambda b: None, ["run", "x"], 2, "is a bundle of 'train' and 'default' was asked for"),
    (lambda b: b.write_bundle(machine="aarch64"), ["run", "-e", "train", "x"], 2, "is a bundle for linux on aarch64"),
    (change_lock, ["run", "-e", "train", "x"], 2, "was made from another pixi.lock than this checkout has"),
    (lambda b: (b.bundle / "manifest.json").unlink(), ["run", "-e", "train", "x"], 2, "has no manifest.json"),
    (lambda b: (b.bundle / "manifest.json").write_text("{"), ["run", "-e", "train", "x"], 2, "is not understood"),
    (lambda b: shutil.rmtree(b.bundle), ["run", "-e", "train", "x"], 2, "there is no such folder"),
    (add_file, ["run", "-e", "train", "x"], 2, "holds what is no part of this bundle: wheels/evil"),
    (change_wheel, ["run", "-e", "train", "x"], 3, "alpha-1.0-py3-none-any.whl has sha256"),
    (change_conda, ["run", "-e", "train", "x"], 3, "native-1.0-0.conda has sha256"),
]


@pytest.mark.parametrize(("change", "arguments", "code", "message"), REFUSED, ids=[row[3] for row in REFUSED])
def test_a_bundle_that_does_not_fit_is_refused_in_one_line(
    bundled: Bundled, change: Callable[[Bundled], object], arguments: list[str], code: int, message: str
) -> None:
    change(bundled)
    done = bundled.from_bundle(*arguments)
    assert done.returncode == code
    said = [line for line in done.stderr.splitlines() if "checking the bundle" not in line]
    assert len(said) == 1
    assert message in said[0]
    assert done.stdout == ""
    assert not (bundled.root / ".pixi" / "bin").exists()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["run", "x"], "default"),
        (["run", "-e", "b300", "x"], "b300"),
        (["run", "--environment=b300", "x", "-e", "y"], "b300"),
        (["run", "--environment", "b300", "x"], "b300"),
        (["run", "--locked", "-eb300", "x"], "b300"),
        (["run", "-e=b300", "x"], "b300"),
        (["run", "x", "-e", "argument-of-x"], "default"),
        (["install", "-e", "gh200"], "gh200"),
        (["task", "list"], ""),
        ([], ""),
    ],
)
def test_the_environment_asked_for_is_read_as_pixi_reads_it(arguments: list[str], environment: str) -> None:
    assert bundle_run.asked_environment(arguments) == environment


@pytest.mark.parametrize("path", MACHINE_SIDE)
def test_what_the_machines_own_python_runs_is_written_for_python_3_8(path: str) -> None:
    ast.parse((ROOT / path).read_text(), feature_version=(3, 8))


# --- without pixi -----------------------------------------------------------------------------------


def make_venv(workspace: Workspace) -> None:
    """This process's own Python standing in for a finished .venv."""
    venv = workspace.root / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(sys.prefix, "bin", "python").resolve())
    (venv / index_run.MARKER).write_text(f"{venv}\n")


@pytest.mark.parametrize("mode", ["auto", "index"])
def test_a_python_only_bundle_goes_without_pixi_and_binds_pip_and_uv_to_its_wheels(bundled: Bundled, mode: str) -> None:
    bundled.write_bundle("default", python_only=True)
    bundled.manifest('[tasks]\nshow = "python show.py"\n')
    names = ["PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_OFFLINE"]
    (bundled.root / "show.py").write_text(f"import os\nprint([os.environ.get(name) for name in {names}])\n")
    make_venv(bundled)
    done = bundled.from_bundle("run", "show", PIXIW_MODE=mode, UV_FIND_LINKS="/elsewhere")
    wheels = (bundled.bundle / "wheels").as_uri()
    assert done.stdout == f"{['1', wheels, wheels, '1']}\n", done.stderr


def test_another_python_than_the_wheels_are_for_is_refused(bundled: Bundled) -> None:
    bundled.write_bundle("default", python_only=True, python="3.99.0")
    done = bundled.from_bundle("run", "hello")
    assert done.returncode == 3
    assert "the bundle is for Python 3.99" in done.stderr
    make_venv(bundled)
    done = bundled.from_bundle("run", "hello")
    assert done.returncode == 2
    assert "has another Python than the bundle is for (3.99)" in done.stderr


def test_wheels_alone_are_nothing_for_pixi(bundled: Bundled) -> None:
    bundled.write_bundle("default", python_only=True)
    done = bundled.from_bundle("run", "hello", PIXIW_MODE="pixi")
    assert done.returncode == 2
    assert "has wheels alone" in done.stderr


@pytest.mark.skipif(not shutil.which("uv") and not Path(sys.prefix, "bin", "uv").exists(), reason="uv is not there")
@pytest.mark.parametrize("right", [True, False])
def test_a_release_wheel_is_installed_from_the_folder_and_its_hash_is_checked(tmp_path: Path, right: bool) -> None:
    name, data = make_wheel("vllm", "0.25.1+cu129")
    folder = tmp_path / "some wheels"
    folder.mkdir()
    (folder / name).write_bytes(data if right else make_wheel("vllm", "0.25.1+cu129", padding=9)[1])
    address = f"https://nowhere.invalid/{name.replace('+', '%2B')}"
    lock = f"vllm @ {address} \\\n    --hash=sha256:{sha256(data)}\nother==1 \\\n    --hash=sha256:{'0' * 64}\n"
    assert release_wheels.localise(lock, [tmp_path]) == (lock, [name])
    if not right:
        with pytest.raises(release_wheels.WrongWheel, match="take it out of the folder"):
            release_wheels.localise(lock, [tmp_path, folder])
        return
    derived, remote = release_wheels.localise(lock, [tmp_path, folder])
    assert remote == []
    (tmp_path / "a.lock").write_text(derived.partition("other==1")[0])
    uv = str(Path(sys.prefix, "bin", "uv")) if Path(sys.prefix, "bin", "uv").exists() else "uv"
    command = [uv, "pip", "install", "--target", str(tmp_path / "there"), "--python", sys.executable, "--offline"]
    command += [
        "--no-deps",
        "--no-index",
        "--find-links",
        folder.as_uri(),
        "--require-hashes",
        "-r",
        str(tmp_path / "a.lock"),
    ]
    environment = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "vllm.py").exists()


# --- the mirror, proven with the library that pixi is built on -----------------------------------------


def test_the_mirror_serves_the_named_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a b.conda").write_bytes(b"data")
    (tmp_path / "secret").write_bytes(b"no")
    with bundle_mirror.serve({"noarch/a b.conda": tmp_path / "a b.conda"}) as address:
        with urllib.request.urlopen(f"{address}noarch/a%20b.conda") as answer:
            assert answer.read() == b"data"
        head = urllib.request.Request(f"{address}noarch/a%20b.conda", method="HEAD")
        with urllib.request.urlopen(head) as answer:
            assert (answer.headers["Content-Length"], answer.read()) == ("4", b"")
        for path in ("secret", "noarch/../secret", "noarch/%2e%2e/secret", "", "noarch/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + path)
        put = urllib.request.Request(f"{address}noarch/a%20b.conda", data=b"x", method="PUT")
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(put)


@pytest.mark.parametrize("right", [True, False])
def test_rattler_installs_through_the_mirror_and_refuses_a_changed_file(tmp_path: Path, right: bool) -> None:
    rattler = pytest.importorskip("rattler", reason="py-rattler is not in this environment")
    from rattler.networking.middleware import MirrorMiddleware

    source = Source(tmp_path / "workspace", Site())
    environment = rattler.LockFile.from_path(tmp_path / "workspace" / "pixi.lock").environment("train")
    records = environment.conda_repodata_records_for_platform(environment.platforms()[0])
    name, data = source.conda[1]
    served = {f"noarch/{name}": tmp_path / name for name, _ in source.conda}
    for file, content in source.conda:
        (tmp_path / file).write_bytes(content)
    (tmp_path / name).write_bytes(data if right else make_conda("native", text="changed\n")[1])
    prefix = tmp_path / "prefix"

    async def install(address: str) -> None:
        client = rattler.Client([MirrorMiddleware({CHANNEL.rstrip("/"): [address]})])
        await rattler.install(records, prefix, cache_dir=tmp_path / "cache", client=client, show_progress=False)

    start = time.monotonic()
    with bundle_mirror.serve(served) as address:
        if right:
            asyncio.run(install(address))
            assert (prefix / "share" / "native.txt").read_text() == "hello\n"
        else:
            with pytest.raises(Exception, match=r"(?i)hash|sha256"):
                asyncio.run(install(address))
            assert not (prefix / "share" / "native.txt").exists()
    assert time.monotonic() - start < 30
