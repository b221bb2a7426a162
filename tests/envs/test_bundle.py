"""tanren bundle: every file of both locks by its sha256, continued where it broke off, and checked again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tanren.common import cli
from tanren.common.bundle import Made, make_bundle, verify_bundle
from tanren.common.bundle._fetch import Web
from tanren.common.bundle._target import read_target
from tanren.common.bundle_manifest import BundleManifest
from tanren.common.command import run_command
from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError

from .bundle_parts import LINUX, Site, Source, make_wheel, serve_site, sha256

needs_uv = pytest.mark.skipif(
    not (shutil.which("uv") or Path(sys.prefix, "bin", "uv").exists()), reason="this environment has no uv"
)
pytestmark = needs_uv
SETTINGS = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "PIXIW_")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve_site(Site()) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source(tmp_path / "workspace", site)
    made.pin_pixi("exit 0\n")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{site.address}/simple/")
    monkeypatch.setenv("PIXIW_CHANNEL_BASE", f"{site.address}/channel")
    monkeypatch.setenv("PIXIW_RELEASE_BASE", f"{site.address}/release")
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(made.root))
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def bundle(source: Source, out: Path, environment: str = "train", *, python_only: bool = False) -> Made:
    web = Web(os.environ, pauses=(0.01,))
    platform = "linux-64"
    with Path(os.devnull).open("w") as silent:
        console = Console(stream=silent)
        return make_bundle(
            source.root, environment, out, platform=platform, python_only=python_only, console=console, web=web
        )


def paths(made: Made) -> set[str]:
    return {file.path for file in made.manifest.files}


def gets(site: Site, name: str) -> list[str]:
    """The Range of every GET of a file, '' for all of it."""
    return [wanted for method, path, wanted in site.asked if method == "GET" and path.endswith(name)]


# --- what is in it --------------------------------------------------------------------------------


def test_a_bundle_holds_every_file_of_both_locks_and_pixi(source: Source, out: Path) -> None:
    made = bundle(source, out)
    assert paths(made) == {
        "conda/noarch/python-3.12.5-0.conda",
        "conda/noarch/native-1.0-0.conda",
        "pixi/pixi-x86_64-unknown-linux-musl.tar.gz",
        "wheels/alpha-1.0-py3-none-any.whl",
        f"wheels/beta-1.0-cp312-cp312-{LINUX}.whl",
    }
    for file in made.manifest.files:
        data = (out / file.path).read_bytes()
        assert (len(data), sha256(data)) == (file.size, file.sha256)
    assert made.manifest.environments == ("train", "eval")
    assert made.manifest.python == "3.12.5"
    assert set(made.manifest.locks) == {
        "pixi.lock",
        "envs/train/requirements.lock",
        "envs/train/profile.toml",
        "envs/uv.lock",
    }
    assert sorted(path.name for path in out.iterdir()) == ["conda", "manifest.json", "pixi", "wheels"]


def test_a_second_start_checks_without_a_network(
    source: Source, site: Site, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bundle(source, out)
    site.asked.clear()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/")  # discard: nothing listens there
    second = bundle(source, out)
    assert site.asked == []
    assert second == Made(first.manifest, downloaded=0)


def test_a_python_only_bundle_has_the_wheels_of_this_python_and_the_installer(source: Source, out: Path) -> None:
    wheels = [
        make_wheel("alpha"),
        make_wheel("beta", tag=f"cp3{sys.version_info.minor}-cp3{sys.version_info.minor}-{LINUX}"),
    ]
    source.write_lock("envs/default/requirements.lock", wheels)
    made = bundle(source, out, "default", python_only=True)
    assert paths(made) == {f"wheels/{name}" for name, _ in [*wheels, make_wheel("uv", "0.0.1")]}
    assert "pixi.lock" not in made.manifest.locks
    assert made.manifest.channel == ""


def test_the_best_wheel_of_the_lock_is_chosen(source: Source, site: Site, out: Path) -> None:
    tags = ["py3-none-any", f"cp39-abi3-{LINUX}", f"cp312-cp312-{LINUX}", f"cp311-cp311-{LINUX}"]
    tags += ["cp312-cp312-manylinux_2_34_x86_64", "cp312-cp312-musllinux_1_2_x86_64", "cp312-cp312-macosx_11_0_arm64"]
    wheels = [make_wheel("gamma", tag=tag) for tag in tags]
    source.write_lock("envs/train/requirements.lock", wheels)
    assert f"wheels/gamma-1.0-cp312-cp312-{LINUX}.whl" in paths(bundle(source, out))


def test_a_wheel_that_the_lock_does_not_name_is_never_chosen(source: Source, site: Site, out: Path) -> None:
    source.write_lock("envs/train/requirements.lock", [make_wheel("gamma")])
    site.add("simple", make_wheel("gamma", tag=f"cp312-cp312-{LINUX}"))
    assert "wheels/gamma-1.0-py3-none-any.whl" in paths(bundle(source, out))


def test_a_package_without_a_wheel_for_the_target_is_named(source: Source, site: Site, out: Path) -> None:
    source.write_lock("envs/train/requirements.lock", [make_wheel("gamma", tag="cp312-cp312-manylinux_2_34_x86_64")])
    with pytest.raises(UserError, match=r"gamma 1.0: no wheel for Python 3.12.5 on linux-64"):
        bundle(source, out)
    assert not out.exists()


def test_markers_that_do_not_hold_there_leave_their_packages_out(source: Source, out: Path) -> None:
    lock = source.root / "envs" / "train" / "requirements.lock"
    hashes = f" \\\n    --hash=sha256:{'0' * 64}\n"
    markers = ["sys_platform == 'darwin'", "python_full_version < '3.12'", "platform_machine == 'aarch64'"]
    lock.write_text(lock.read_text() + "".join(f"no{i}==1 ; {marker}{hashes}" for i, marker in enumerate(markers)))
    assert len([path for path in paths(bundle(source, out)) if path.startswith("wheels/")]) == 2


def test_a_small_index_beside_the_default_one_hides_nothing(
    source: Source, site: Site, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, other = make_wheel("gamma"), make_wheel("gamma", tag="cp312-cp312-manylinux_2_34_x86_64")
    source.write_lock("envs/train/requirements.lock", [wanted, other])
    site.files.pop(f"simple/{other[0]}")
    site.add("small", other)
    monkeypatch.setenv("UV_INDEX", f"{site.address}/small/")
    assert f"wheels/{wanted[0]}" in paths(bundle(source, out))


def test_a_wheel_folder_is_used_instead_of_the_network(
    source: Source, site: Site, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some wheels"
    folder.mkdir()
    for name, data in source.wheels:
        (folder / name).write_bytes(data)
        site.files.pop(f"simple/{name}")
    (folder / make_wheel("alpha", "2.0")[0]).write_bytes(b"another version")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    bundle(source, out)
    assert not [path for _, path, _ in site.asked if path.startswith("simple")]


def test_a_release_wheel_is_fetched_from_the_address_in_the_lock(
    source: Source, site: Site, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, data = make_wheel("vllm", "0.25.1+cu129", tag="cp38-abi3-manylinux_2_28_x86_64")
    site.add("releases", (name, data))
    address = f"https://127.0.0.1/releases/{name.replace('+', '%2B')}"
    lock = source.root / "envs" / "train" / "requirements.lock"
    lock.write_text(lock.read_text() + f"vllm @ {address} \\\n    --hash=sha256:{sha256(data)}\n")
    opened = Web._open

    def plain(self: Web, address: str, method: str, start: int = 0) -> object:
        return opened(self, address.replace("https://127.0.0.1", site.address), method, start)

    monkeypatch.setattr(Web, "_open", plain)  # the site speaks no TLS, and a lock names https alone
    assert f"wheels/{name}" in paths(bundle(source, out))
    assert (out / "wheels" / name).read_bytes() == data


@pytest.mark.parametrize("cpu_build", [True, False])
def test_the_cpu_build_of_torch_or_the_ordinary_one_with_its_cuda_packages(
    source: Source, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_build: bool
) -> None:
    ordinary, runtime = make_wheel("torch", "2.13.0", tag=f"cp312-cp312-{LINUX}"), make_wheel("nvidia_cublas")
    cpu_name, cpu = make_wheel("torch", "2.13.0+cpu", tag="cp312-cp312-manylinux_2_28_x86_64")
    source.write_lock("envs/default/requirements.lock", [*source.wheels, ordinary])
    source.write_lock("envs/default/cuda-runtime.lock", [runtime])
    profile = source.root / "envs" / "default" / "profile.toml"
    table = '[torch-cpu]\nversion = "2.13.0"\naddress = "http://127.0.0.1:9/{version}-{tag}-{machine}.whl"\n'
    profile.write_text(f'{profile.read_text()}{table}[torch-cpu.sha256]\ncp312-linux-x86_64 = "{sha256(cpu)}"\n')
    if cpu_build:
        (tmp_path / cpu_name).write_bytes(cpu)
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    found = {path.removeprefix("wheels/") for path in paths(bundle(source, out, "default"))}
    chosen = {cpu_name} if cpu_build else {ordinary[0], runtime[0]}
    assert chosen == found & {cpu_name, ordinary[0], runtime[0]}
    assert make_wheel("uv", "0.0.1")[0] in found  # PIXIW_MODE=index installs `default` with it


# --- broken connections and other files -------------------------------------------------------------


def test_a_broken_connection_is_continued_where_it_ended(source: Source, site: Site, out: Path) -> None:
    site.break_off["simple/alpha-1.0-py3-none-any.whl"] = 100_000
    bundle(source, out)
    assert gets(site, "alpha-1.0-py3-none-any.whl") == ["", "bytes=100000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_second_start_continues_the_first(source: Source, site: Site, out: Path, ranges: bool) -> None:
    name, data = source.wheels[0]
    (out / ".partial").mkdir(parents=True)
    (out / ".partial" / sha256(data)).write_bytes(data[:70_000])
    site.ranges = ranges
    made = bundle(source, out)
    assert gets(site, name) == (["bytes=70000-"] if ranges else [""])
    assert verify_bundle(out, Console()) == made.manifest


def test_a_wrong_beginning_of_an_earlier_start_is_thrown_away_once(source: Source, site: Site, out: Path) -> None:
    name, data = source.wheels[0]
    (out / ".partial").mkdir(parents=True)
    (out / ".partial" / sha256(data)).write_bytes(b"?" * 70_000)
    bundle(source, out)
    assert gets(site, name) == ["bytes=70000-", ""]


def test_a_file_with_another_sha256_is_refused_and_deleted(source: Source, site: Site, out: Path) -> None:
    path = "channel/noarch/native-1.0-0.conda"
    site.files[path] = site.files[path][:-1] + b"?"
    with pytest.raises(MachineError, match=r"refused: .*native-1.0-0.conda has sha256 .*, expected "):
        bundle(source, out)
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob("native*"))
    assert sha256(source.conda[1][1]) not in {path.name for path in (out / ".partial").iterdir()}


def test_what_cannot_be_had_is_named_without_the_password(
    source: Source, site: Site, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.user = "me:secret"
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{site.address.replace('//', '//me:secret@')}/simple/")
    made = bundle(source, out)  # the index's user is known to its host
    assert made.downloaded
    shutil.rmtree(out)
    site.files.pop("channel/noarch/native-1.0-0.conda")
    with pytest.raises(MachineError, match=r"native-1.0-0.conda cannot be had: HTTP 404") as error:
        bundle(source, out)
    assert "secret" not in str(error.value)


def test_ctrl_c_leaves_what_the_next_start_continues(
    source: Source, site: Site, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, data = source.wheels[0]
    attempt = Web._attempt

    def interrupted(self: Web, wanted: object, partial: Path, advance: object) -> None:
        if partial.name == sha256(data):
            site.break_off[f"simple/{name}"] = 100_000
        attempt(self, wanted, partial, advance)  # type: ignore[arg-type]

    def stop(*_: object) -> None:
        partial = out / ".partial" / sha256(data)
        try:
            begun = partial.stat().st_size >= 100_000
        except FileNotFoundError:  # not begun, or just put in its place
            begun = False
        if begun:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Web, "_attempt", interrupted)
        patch.setattr("tanren.common.bundle._download.Reporter.look", stop)
        patch.chdir(source.root)
        assert run_command(cli._main, ["bundle", "train", "--out", str(out), "--platform", "linux-64"]) == 130
    assert not (out / "manifest.json").exists()
    bundle(source, out)
    assert gets(site, name)[-1].startswith("bytes=")


# --- what is there already --------------------------------------------------------------------------


def test_files_of_something_else_are_refused_and_nothing_is_written(source: Source, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds what is no part of this bundle: thesis\.tex"):
        bundle(source, out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_changed_file_is_deleted_refused_and_fetched_by_the_next_start(source: Source, site: Site, out: Path) -> None:
    bundle(source, out)
    path = out / "wheels" / "alpha-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(MachineError, match=r"refused: .*alpha.* had sha256"):
        bundle(source, out)
    assert not path.exists()
    assert not (out / "manifest.json").exists()
    site.asked.clear()
    bundle(source, out)
    assert gets(site, ".whl") == [""]
    verify_bundle(out, Console())


def test_a_bundle_of_other_locks_is_not_mixed_with_these(source: Source, out: Path) -> None:
    bundle(source, out)
    source.write_lock("envs/train/requirements.lock", [make_wheel("gamma")])
    with pytest.raises(UserError, match="holds another bundle: other locks"):
        bundle(source, out)
    with pytest.raises(UserError, match="holds another bundle: environments"):
        bundle(source, out, "default")


def test_the_command_verifies_and_names_what_is_not_whole(
    source: Source, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.root)
    assert run_command(cli._main, ["bundle", "train", "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["files"] == 5
    assert facts["bytes"] == facts["downloaded_bytes"] == sum(path.stat().st_size for path in out.glob("*/**/*.*"))
    assert run_command(cli._main, ["bundle", "--verify", str(out)]) == 0
    path = out / "conda" / "noarch" / "native-1.0-0.conda"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run_command(cli._main, ["bundle", "--verify", str(out)]) == 3
    assert "native-1.0-0.conda has sha256" in capsys.readouterr().err
    path.unlink()
    assert run_command(cli._main, ["bundle", "--verify", str(out)]) == 3
    assert "native-1.0-0.conda is missing" in capsys.readouterr().err
    (out / "manifest.json").unlink()
    assert run_command(cli._main, ["bundle", "--verify", str(out)]) == 2
    assert "has no manifest.json: this is no bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--out DIR"),
        (["--out", "x"], "--out DIR"),
        (["train", "--out", "x", "--verify", "y"], "--out DIR"),
        (["trian", "--out", "x"], "did you mean 'train'?"),
        (["train", "--out", "x", "--python-only"], "only `default` can be installed without pixi"),
        (["train", "--out", "x", "--platform", "osx-arm64"], "no platform 'osx-arm64': expected linux-64"),
    ],
)
def test_what_cannot_be_bundled_is_refused_in_one_line(
    source: Source,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(source.root)
    assert run_command(cli._main, ["bundle", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_an_environment_without_a_lock_is_named(source: Source, out: Path) -> None:
    (source.root / "envs" / "train" / "requirements.lock").unlink()
    with pytest.raises(UserError, match="'train' has no Python lock yet"):
        bundle(source, out)


def test_the_manifest_reads_back_as_it_was_written(source: Source, out: Path) -> None:
    from tanren.common.bundle_manifest import read_manifest

    manifest: BundleManifest = bundle(source, out).manifest
    assert read_manifest(out) == manifest


@pytest.mark.parametrize("environment", ["default", "train", "eval", "b300", "gh200"])
def test_every_environment_of_the_workspace_has_a_target(environment: str) -> None:
    from .conftest import ROOT

    target = read_target(ROOT, environment, "linux-64" if environment == "default" else "", python_only=False)
    assert target.python.startswith("3.12.")
    assert target.channel == "https://conda.anaconda.org/conda-forge/"
    assert len(target.conda) > 40


def test_a_macos_bundle_takes_wheels_for_macos_14_and_no_newer() -> None:
    from .conftest import ROOT

    platforms = {tag.platform for tag in read_target(ROOT, "default", "osx-arm64", python_only=False).tags()}
    assert {"macosx_14_0_arm64", "macosx_11_0_arm64", "macosx_11_0_universal2"} <= platforms
    assert not {"macosx_15_0_arm64", "macosx_14_0_x86_64"} & platforms
