"""The wrapper: which way it takes, what it says, and what it refuses."""

from __future__ import annotations

import hashlib
import http.server
import io
import platform
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tanren.common.environments import read_architectures

from .conftest import ROOT, Workspace

SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]
RECORDED = {
    ("Linux", "x86_64"): "bcd825d62905c29b3c754b71f9cdc9d6f119454398f58330f111a7b6a0de0a3f",
    ("Linux", "aarch64"): "6476588859faa7232def49ff590f199390bd93fae3826617596befc52382724f",
}
THIS = (platform.system(), platform.machine())
FAKE_PIXI = 'if [ "$1" = --version ]; then echo "pixi {version}"; else echo "ran with: $*"; fi'
MANIFEST = '[tasks]\nhello = { cmd = "echo hello", description = "says hello" }\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """(folder, address) of a web server on this machine."""
    folder = tmp_path / "served"
    (folder / "noarch").mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def serve_release(workspace: Workspace, folder: Path, *, channel: bool, right_sum: bool) -> None:
    """A release with a pixi that echoes its arguments; `right_sum` writes its sum into the copied pixiw."""
    if THIS not in RECORDED:
        pytest.skip(f"the release file of {THIS} is not looked up here")
    script = b"#!/bin/sh\n" + FAKE_PIXI.format(version="0.75.0").encode()
    member = tarfile.TarInfo("pixi")
    member.size = len(script)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.addfile(member, io.BytesIO(script))
    (folder / f"pixi-{THIS[1]}-unknown-linux-musl.tar.gz").write_bytes(content.getvalue())
    if channel:
        (folder / "noarch" / "repodata_shards.msgpack.zst").touch()
    if right_sum:
        wrapper = workspace.root / "pixiw"
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        wrapper.write_text(wrapper.read_text().replace(RECORDED[THIS], digest))


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_read_the_wrapper(shell: str) -> None:
    subprocess.run([shell, "-n", str(ROOT / "pixiw")], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_new_enough_pixi_gets_all_arguments(workspace: Workspace, shell: str) -> None:
    workspace.program("pixi", FAKE_PIXI.format(version="0.77.1"))
    done = workspace.pixiw("run", "-e", "b300", "train-sft", "--lr", "1e-4", shell=shell)
    assert done.stdout == "ran with: run -e b300 train-sft --lr 1e-4\n"
    assert done.stderr.startswith("pixiw: pixi 0.77.1 (")


@pytest.mark.parametrize("version", ["1.0.0", "0.75.0", "0.100.2"])
def test_versions_from_0_75_on_are_new_enough(workspace: Workspace, version: str) -> None:
    workspace.program("pixi", FAKE_PIXI.format(version=version))
    assert workspace.pixiw("info").stdout == "ran with: info\n"


@pytest.mark.parametrize("version", ["0.74.9", "0.7.0", "nonsense"])
def test_an_older_pixi_is_not_used_and_named(workspace: Workspace, version: str) -> None:
    old = workspace.program("pixi", FAKE_PIXI.format(version=version))
    workspace.manifest(MANIFEST)
    done = workspace.pixiw("task", "list")
    assert "hello" in done.stdout
    assert f"{old} is " in done.stderr
    assert "older than 0.75.0" in done.stderr


def test_a_pixi_in_the_home_folder_is_found(workspace: Workspace) -> None:
    path = workspace.program("pixi", FAKE_PIXI.format(version="0.76.0"))
    (workspace.home / ".pixi" / "bin").mkdir(parents=True)
    path.rename(workspace.home / ".pixi" / "bin" / "pixi")
    assert workspace.pixiw("info").stdout == "ran with: info\n"


def test_without_a_network_the_index_environment_is_used_and_one_line_says_why(workspace: Workspace) -> None:
    workspace.manifest(MANIFEST)
    done = workspace.pixiw("task", "list")
    assert done.returncode == 0
    assert "says hello" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("pixiw: index-only CPU environment (.venv): pixi's release cannot be reached (")


def test_an_unreachable_release_is_remembered_and_forcing_asks_again(workspace: Workspace) -> None:
    workspace.manifest(MANIFEST)
    workspace.pixiw("task", "list")
    assert "not asked again for 10 minutes" in workspace.pixiw("task", "list").stderr
    forced = workspace.pixiw("task", "list", PIXIW_MODE="pixi")
    assert forced.returncode == 3
    assert "cannot be had" in forced.stderr
    assert "not asked again" not in forced.stderr


def test_index_mode_asks_no_network_and_no_pixi(workspace: Workspace) -> None:
    for name in ("pixi", "curl", "wget"):
        workspace.program(name, f'echo "{name} was called" >&2; exit 1')
    workspace.manifest(MANIFEST)
    done = workspace.pixiw("task", "list", PIXIW_MODE="index")
    assert done.stderr == "pixiw: index-only CPU environment (.venv): PIXIW_MODE=index\n"


def test_an_unknown_mode_is_refused(workspace: Workspace) -> None:
    done = workspace.pixiw("task", "list", PIXIW_MODE="conda")
    assert done.returncode == 2
    assert "expected pixi or index" in done.stderr


def test_the_release_is_downloaded_checked_and_kept(workspace: Workspace, server: tuple[Path, str]) -> None:
    folder, address = server
    serve_release(workspace, folder, channel=True, right_sum=True)
    mirror = {"PIXIW_RELEASE_BASE": address, "PIXIW_CHANNEL_BASE": address}
    done = workspace.pixiw("run", "x", **mirror)
    assert done.stdout == "ran with: run x\n", done.stderr
    (workspace.root / ".pixi" / "envs").mkdir()  # installed: from now on no question is asked
    assert workspace.pixiw("run", "y").stdout == "ran with: run y\n"
    assert [path.name for path in (workspace.root / ".pixi" / "bin").iterdir()] == ["pixi-0.75.0"]


def test_a_release_with_another_checksum_is_refused_and_deleted(workspace: Workspace, server: tuple[Path, str]) -> None:
    folder, address = server
    serve_release(workspace, folder, channel=True, right_sum=False)
    done = workspace.pixiw("run", "x", PIXIW_RELEASE_BASE=address, PIXIW_CHANNEL_BASE=address)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "refused" in done.stderr
    assert RECORDED[THIS] in done.stderr
    assert list((workspace.root / ".pixi" / "bin").iterdir()) == []


def test_without_the_conda_channel_nothing_is_downloaded(workspace: Workspace, server: tuple[Path, str]) -> None:
    folder, address = server
    serve_release(workspace, folder, channel=False, right_sum=True)
    workspace.manifest(MANIFEST)
    done = workspace.pixiw("task", "list", PIXIW_RELEASE_BASE=address, PIXIW_CHANNEL_BASE=address)
    assert "the conda channel cannot be reached" in done.stderr
    assert not (workspace.root / ".pixi" / "bin").exists()


def test_a_slow_question_is_announced_within_two_seconds(workspace: Workspace) -> None:
    workspace.program("curl", "sleep 1.5; echo 'curl: (28) timed out' >&2; exit 28")
    workspace.manifest(MANIFEST)
    lines = workspace.pixiw("task", "list").stderr.splitlines()
    assert "asking for pixi's release" in lines[0]
    assert "cannot be reached (timed out)" in lines[1]


def test_no_usable_python_is_the_machines_fault(workspace: Workspace) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (workspace.bin / name).unlink(missing_ok=True)
        workspace.program(name, "exit 1")
    done = workspace.pixiw("task", "list", PIXIW_MODE="index")
    assert done.returncode == 3
    assert "python3.11" in done.stderr


def test_the_wrapper_is_executable() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "pixiw", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["100755", "100755"]


# --- an environment that is not for this machine -------------------------------------------------------


def on_machine(workspace: Workspace, machine: str, driver: str = "", *cards: str) -> dict[str, str]:
    """A pixi that tells its CUDA override, the real profiles, another `uname`, and an NVIDIA driver; the variables."""
    for profile in (ROOT / "envs").glob("*/profile.toml"):
        (workspace.root / "envs" / profile.parent.name).mkdir()
        shutil.copy(profile, workspace.root / "envs" / profile.parent.name)
    told = 'echo "ran with: $* (CUDA ${CONDA_OVERRIDE_CUDA:-as found})"'
    workspace.program("pixi", f'if [ "$1" = --version ]; then echo "pixi 0.77.0"; else {told}; fi')
    workspace.program("uname", f'[ "$1" = -m ] && echo {machine} || echo Linux')
    proc = workspace.root.parent / "proc"
    if driver:
        for number, card in enumerate(cards):
            (proc / "gpus" / str(number)).mkdir(parents=True)
            (proc / "gpus" / str(number) / "information").write_text(f"Model: \t {card}\nIRQ: 1\n")
        proc.mkdir(exist_ok=True)
        (proc / "version").write_text(
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build\n"
        )
    return {"TANREN_PROC_NVIDIA": str(proc)}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "flags", [["-e", "b300"], ["-eb300"], ["--environment", "b300"], ["--frozen", "--environment=b300"]]
)
def test_an_environment_for_another_architecture_is_refused_in_one_line(
    workspace: Workspace, shell: str, flags: list[str]
) -> None:
    variables = on_machine(workspace, "aarch64")
    done = workspace.pixiw("run", *flags, "train-sft", shell=shell, **variables)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("pixiw: environment 'b300' is for x86_64, and this machine is aarch64: docs/environments.md")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("environment", "driver", "cards", "said"),
    [
        (
            "train",
            "550.54.15",
            ("NVIDIA H100 80GB HBM3",),
            "needs NVIDIA driver 570.26 or newer, and this machine has 550.54.15",
        ),
        ("b300", "570.133.20", ("NVIDIA GeForce RTX 5080",), "needs NVIDIA driver 580.65.06 or newer"),
        ("b300-cuda13", "570.133.20", (), "needs NVIDIA driver 580.65.06 or newer"),
    ],
)
def test_an_older_driver_is_refused_in_one_line(
    workspace: Workspace, environment: str, driver: str, cards: tuple[str, ...], said: str
) -> None:
    variables = on_machine(workspace, "x86_64", driver, *cards)
    done = workspace.pixiw("run", "-e", environment, "train-sft", **variables)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "driver", "cards", "cuda"),
    [
        (["run", "-e", "train", "x"], "570.26", ("Tesla T4",), "as found"),
        (["run", "-e", "b300", "x"], "580.159.04", ("NVIDIA GeForce RTX 5080",), "as found"),
        (["run", "-e", "b300", "x"], "570.133.20", ("NVIDIA B200", "NVIDIA B200"), "13.0"),  # cuda-compat stands in
        (["run", "-e", "b300", "x"], "", (), "as found"),  # a login node: pixi judges
        (["run", "train-sft", "-e", "b300"], "550.54.15", ("NVIDIA H100",), "as found"),  # the task's own argument
        (["run", "-e", "unknown", "x"], "550.54.15", ("NVIDIA H100",), "as found"),
        (["install"], "550.54.15", ("NVIDIA H100",), "as found"),
    ],
)
def test_what_fits_goes_to_pixi_and_it_is_told_of_cuda_compat(
    workspace: Workspace, arguments: list[str], driver: str, cards: tuple[str, ...], cuda: str
) -> None:
    variables = on_machine(workspace, "x86_64", driver, *cards)
    done = workspace.pixiw(*arguments, **variables)
    assert done.stdout == f"ran with: {' '.join(arguments)} (CUDA {cuda})\n", done.stderr


def test_an_override_of_the_user_is_left_alone(workspace: Workspace) -> None:
    variables = on_machine(workspace, "x86_64", "550.54.15", "NVIDIA H100")
    done = workspace.pixiw("run", "-e", "train", "x", CONDA_OVERRIDE_CUDA="12.8", **variables)
    assert done.stdout == "ran with: run -e train x (CUDA 12.8)\n"


def test_the_wrapper_knows_the_same_cards_as_the_table() -> None:
    table = read_architectures(ROOT)
    assert " | ".join(f"true*{word}*" for word in table.not_data_center) in (ROOT / "pixiw").read_text()
