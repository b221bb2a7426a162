"""Runs pixi, or the index-only environment, from an air-gapped bundle alone. Started by `pixiw --bundle`.

    bundle_run.py check MODE BUNDLE ARGUMENTS...   prints the way to go: 'pixi', or 'index' and the Python that it needs
    bundle_run.py pixi PIXI BUNDLE ARGUMENTS...    runs pixi with the bundle as its channel and the wheels as sync's only source
    bundle_run.py index BUNDLE ARGUMENTS...        becomes envs/index_run.py, with the wheels as its only source

Standard library and Python 3.8: it runs with the machine's own Python, before anything is installed.
Exit codes of its own: 2 the user's mistake (another bundle is needed), 3 the machine's (a file is not what was bundled).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packages" / "common" / "src"))

from bundle_mirror import serve  # noqa: E402

from tanren.common.bundle_manifest import (  # noqa: E402 (nothing is installed yet)
    BundleManifest,
    check_files,
    lock_hashes,
    read_manifest,
    refuse_extras,
)
from tanren.common.errors import TanrenError, UserError  # noqa: E402

NEEDS_ENVIRONMENT = {"run", "r", "install", "i", "shell", "s", "shell-hook"}


def say(message: str) -> None:
    """One line on standard error; standard output belongs to the task."""
    print(f"pixiw: {message}", file=sys.stderr, flush=True)


def asked_environment(arguments: list[str]) -> str:
    """The environment that a pixi command line asks for: 'default' where it says none, '' where it needs none."""
    if not arguments or arguments[0] not in NEEDS_ENVIRONMENT:
        return ""
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in ("-e", "--environment"):
            return next(rest, "default")
        if argument.startswith("--environment="):
            return argument.partition("=")[2]
        if argument.startswith("-e"):
            return argument[2:].lstrip("=")
        if not argument.startswith("-") or argument == "--":
            break
    return "default"


def refuse_other(manifest: BundleManifest, bundle: Path, asked: str) -> None:
    """Raise UserError where the bundle is for another environment or machine, or made from other locks."""
    names = manifest.environments
    if asked and asked not in names:
        raise UserError(
            f"{bundle} is a bundle of '{names[0]}' and '{asked}' was asked for: use its own (-e {names[0]})"
        )
    system = "osx" if sys.platform == "darwin" else "linux"
    here = f"{system} on {platform.machine()}"
    there = f"{manifest.platform.partition('-')[0]} on {manifest.machine}"
    if here != there:
        raise UserError(f"{bundle} is a bundle for {there}, and this machine is {here}: make one for this machine")
    changed = [path for path, found in lock_hashes(ROOT, manifest.locks).items() if found != manifest.locks[path]]
    if changed:
        fault = f"{bundle} was made from another {changed[0]} than this checkout has"
        raise UserError(f"{fault}: make the bundle again, or check out the commit that it was made at")


def check(mode: str, bundle: Path, arguments: list[str]) -> str:
    """The way to go; TanrenError where the bundle does not fit or is not whole."""
    manifest = read_manifest(bundle)
    if mode == "pixi" and manifest.python_only:
        raise UserError(f"{bundle} has wheels alone (--python-only) and PIXIW_MODE=pixi was asked for: leave one out")
    refuse_other(manifest, bundle, asked_environment(arguments))
    refuse_extras(bundle, (file.path for file in manifest.files))
    remember(bundle, manifest)
    minor = ".".join(manifest.python.split(".")[:2])
    return f"index {minor}" if manifest.python_only or mode == "index" else "pixi"


def remember(bundle: Path, manifest: BundleManifest) -> None:
    """Check every byte, once: what was checked is recognised by its files' sizes and times."""
    paths = [bundle / file.path for file in manifest.files]
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in paths]
    state = hashlib.sha256(json.dumps([manifest.text(), seen]).encode()).hexdigest()
    record = ROOT / ".pixi" / "bundle-checked"
    if record.is_file() and record.read_text(encoding="utf-8") == state:
        return
    gigabytes = sum(file.size for file in manifest.files) / 1e9
    say(f"checking the bundle, {len(manifest.files)} files, {gigabytes:.1f} GB (once)")
    check_files(bundle, manifest)
    record.parent.mkdir(exist_ok=True)
    record.write_text(state, encoding="utf-8")


def wheels_only(bundle: Path) -> dict[str, str]:
    """This process's environment, with pip and uv bound to the bundle's wheels.

    The folder is given as an address: both split their lists of folders at spaces.
    """
    wheels = (bundle / "wheels").as_uri()
    bound = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "UV_FIND_LINKS": wheels}
    return {**os.environ, **bound, "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}


def pixi_environment(bundle: Path, home: Path, channel: str, address: str, arguments: list[str]) -> dict[str, str]:
    """pixi's environment: a configuration with the mirror in a home of its own, and the lock as it is.

    The user's own configuration stays and is read too; of two mirrors for one channel pixi takes the later file's, and
    PIXI_HOME comes after the user's. A frozen lock asks for no channel index.
    """
    mirrors = "".join(f'"{key}" = ["{address}"]\n' for key in (channel.rstrip("/"), channel.rstrip("/") + "/"))
    settings = f'[mirrors]\n{mirrors}\n[proxy-config]\nnon-proxy-hosts = ["127.0.0.1"]\n'
    home.joinpath("config.toml").write_text(settings, encoding="utf-8")
    environment = {**wheels_only(bundle), "PIXI_HOME": str(home)}
    for name in ("NO_PROXY", "no_proxy"):  # a proxy cannot reach this machine's loopback address
        environment[name] = ",".join(filter(None, [environment.get(name, ""), "127.0.0.1"]))
    if "--locked" not in arguments:  # pixi refuses both
        environment.pop("PIXI_LOCKED", None)
        environment["PIXI_FROZEN"] = "true"
    return environment


def run_pixi(pixi: str, bundle: Path, arguments: list[str]) -> int:
    """pixi's exit code; the mirror and its configuration end with it."""
    manifest = read_manifest(bundle)
    own = ROOT / ".pixi" / "config.toml"
    if own.is_file() and "mirrors" in own.read_text(encoding="utf-8"):
        say(f"warning: {own} has [mirrors], and pixi takes them before the bundle's")
    files = {file.path[len("conda/") :]: bundle / file.path for file in manifest.files if file.kind == "conda"}
    home = Path(tempfile.mkdtemp(prefix="bundle-", dir=str(ROOT / ".pixi")))
    try:
        with serve(files) as address:
            environment = pixi_environment(bundle, home, manifest.channel, address, arguments)
            return child([pixi, *arguments], environment)
    finally:
        shutil.rmtree(str(home), ignore_errors=True)


def child(command: list[str], environment: dict[str, str]) -> int:
    """Run a command that gets this process's signals; its exit code, 128 + the signal's number where one ended it."""
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def hand_on(number: int, _: object) -> None:
        for process in started:
            process.send_signal(number)
        if not started:
            early.append(number)

    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the child too: let it end in its own way
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hand_on)
    with subprocess.Popen(command, env=environment) as process:
        started.append(process)
        for missed in early:
            process.send_signal(missed)
        code = process.wait()
    return 128 - code if code < 0 else code


def main(arguments: list[str]) -> int:
    """The exit code; one message for what is refused."""
    try:
        if arguments[0] == "check":
            print(check(arguments[1], Path(arguments[2]), arguments[3:]))
            return 0
        if arguments[0] == "pixi":
            return run_pixi(arguments[1], Path(arguments[2]), arguments[3:])
        command = [sys.executable, str(ROOT / "envs" / "index_run.py"), *arguments[2:]]
        os.execve(command[0], command, wheels_only(Path(arguments[1])))  # noqa: S606 (no shell is the point)
    except TanrenError as error:
        say(str(error))
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
