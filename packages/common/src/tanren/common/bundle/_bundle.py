"""Makes a bundle, goes on with an unfinished one, or checks a finished one."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tanren.common.bundle_manifest import (
    MANIFEST,
    PARTIAL,
    BundleFile,
    BundleManifest,
    check_files,
    lock_hashes,
    read_manifest,
    refuse_extras,
)
from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError

from ._download import MB, Progress, Reporter, download, with_sizes
from ._fetch import Web
from ._files import Wanted, conda_files, pixi_file
from ._target import Target, read_target
from ._wheels import wheel_files


@dataclass(frozen=True)
class Made:
    """What a start of the command ended with."""

    manifest: BundleManifest
    downloaded: int
    """Bytes that came from the network or a wheel folder; 0 where all was there."""


def make_bundle(
    root: Path,
    environment: str,
    out: Path,
    *,
    platform: str,
    python_only: bool,
    console: Console,
    web: Web | None = None,
) -> Made:
    """Fetch every file of both locks for one environment into `out`, checked; the manifest comes last.

    Raises UserError where the locks do not have what is asked or `out` holds something else, MachineError where a file
    cannot be had or is another one.
    """
    envs = str(root / "envs")
    if envs not in sys.path:
        sys.path.append(envs)  # index_settings, torch_build, lock_format: what sync reads before anything is installed
    import index_settings

    target = read_target(root, environment, platform, python_only=python_only)
    locks = lock_hashes(root, _lock_paths(root, target))
    if (out / MANIFEST).is_file():
        manifest = _finished(out, target, locks)
        if all((out / file.path).is_file() for file in manifest.files):
            _recheck(out, manifest, console)
            return Made(manifest, 0)
    settings = index_settings.read(os.environ)
    os.environ.update(settings.variables)  # proxies: urllib reads them there, as it does in sync
    web = web or Web(settings.environment(os.environ))
    with console.phase("plan", f"the files of '{environment}' for Python {target.python} on {target.platform}"):
        wanted = _plan(root, target, settings, console)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: it is a file, expected a folder")
    if out.is_dir():
        refuse_extras(out, (file.path for file in wanted))
    with _alone(out):
        (out / MANIFEST).unlink(missing_ok=True)  # until all is there again
        with console.phase("sizes", "asking for those that neither lock nor index says"):
            wanted = with_sizes(wanted, out, web)
        known = sum(file.size or 0 for file in wanted)
        console.line(f"{len(wanted)} files, {known / 1e9:.2f} GB, into {out}")
        progress = Progress()
        files = download(wanted, out, web, console, progress)
        manifest = _manifest(target, locks, files)
        aside = out / PARTIAL / MANIFEST
        aside.write_text(manifest.text(), encoding="utf-8")
        aside.replace(out / MANIFEST)
        shutil.rmtree(out / PARTIAL)
    return Made(manifest, progress.downloaded)


def verify_bundle(folder: Path, console: Console) -> BundleManifest:
    """Check every byte of a finished bundle against its manifest, without a network or a workspace."""
    manifest = read_manifest(folder)
    refuse_extras(folder, (file.path for file in manifest.files))
    progress = Progress()
    total = sum(file.size for file in manifest.files)
    with console.bar("check", -(-total // MB), "MB") as bar:
        reporter = Reporter(bar, console, progress, len(manifest.files))

        def advance(count: int) -> None:
            progress.read(count)
            reporter.look()

        check_files(folder, manifest, advance)
    return manifest


def _plan(root: Path, target: Target, settings: object, console: Console) -> list[Wanted]:
    import index_settings
    import release_wheels
    import torch_build

    assert isinstance(settings, index_settings.Settings)
    folder = target.profile.folder
    locks = [(folder / "requirements.lock").read_text(encoding="utf-8")]
    if "torch-cpu" in tomllib.loads((folder / "profile.toml").read_text(encoding="utf-8")):
        try:
            choice = torch_build.choose(folder, settings.folders, offline=settings.no_index, key=target.key)
        except release_wheels.WrongWheel as fault:
            raise MachineError(str(fault)) from fault
        console.line(choice.why)
        locks = [torch_build.derive(locks[0], choice)]
        if choice.cuda_runtime:
            locks.append((folder / "cuda-runtime.lock").read_text(encoding="utf-8"))
    if target.profile.cuda is None:  # PIXIW_MODE=index makes this one without conda's uv
        locks.append((root / "envs" / "uv.lock").read_text(encoding="utf-8"))
    wheels = wheel_files(target, locks, settings)
    return wheels if target.python_only else [*conda_files(target), pixi_file(root, target), *wheels]


def _lock_paths(root: Path, target: Target) -> list[str]:
    folder = target.profile.folder.relative_to(root).as_posix()
    names = ["requirements.lock", "cuda-runtime.lock", "profile.toml"]
    paths = [f"{folder}/{name}" for name in names if (target.profile.folder / name).is_file()]
    return [*([] if target.python_only else ["pixi.lock"]), *paths, "envs/uv.lock"]


def _manifest(target: Target, locks: dict[str, str], files: list[BundleFile]) -> BundleManifest:
    return BundleManifest(
        environments=target.names,
        python_only=target.python_only,
        platform=target.platform,
        machine=target.machine,
        python=target.python,
        channel=target.channel,
        locks=locks,
        files=tuple(files),
    )


def _finished(out: Path, target: Target, locks: dict[str, str]) -> BundleManifest:
    """Return the manifest that is there; UserError where it is another bundle's."""
    manifest = read_manifest(out)
    wanted = _manifest(target, locks, list(manifest.files))
    for name in ("environments", "platform", "python_only", "python", "locks"):
        found, expected = getattr(manifest, name), getattr(wanted, name)
        if name == "environments":
            found, expected = sorted(found), sorted(expected)
        if found != expected:
            what = (
                "other locks than the workspace has now" if name == "locks" else f"{name} {found}, asked was {expected}"
            )
            raise UserError(f"{out} holds another bundle: {what}: choose another folder, or delete it")
    refuse_extras(out, (file.path for file in manifest.files))
    return manifest


def _recheck(out: Path, manifest: BundleManifest, console: Console) -> None:
    """Check every file of a finished bundle; one that is another is deleted, and the manifest with it."""
    files = [Wanted(file.kind, file.path, "", file.sha256, file.size) for file in manifest.files]
    with _alone(out):
        try:
            download(files, out, Web(os.environ), console, Progress())
        except MachineError:
            (out / MANIFEST).unlink()
            raise
        shutil.rmtree(out / PARTIAL)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep two starts from filling one folder."""
    (out / PARTIAL).mkdir(parents=True, exist_ok=True)
    with (out / PARTIAL / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another `tanren bundle` is filling this folder: wait for it") from error
        yield
