"""Makes this environment's Python packages exactly the lock: the pixi task `sync`, on which every task that runs our code depends.

Nothing changed: the stamp in the environment's folder says so and this ends at once (so nothing heavy is imported before
the stamp is read). Otherwise: the installer (uv, hash-pinned), the choice of torch's build, the lock (every file by sha256), our own
packages (editable), and last the stamp: an interrupted sync has none and is done again by the next start.
`--force` does it again in any case, after packages were changed by hand. Exit codes: 0, 2 the user's mistake, 3 the machine's.
"""

from __future__ import annotations

import hashlib
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STAMP = "tanren-sync.stamp"
OUR_SOURCES = ("sync.py", "torch_build.py", "index_settings.py", "uv.lock")
HEARTBEAT = 15  # s of silence before a line says that the work goes on


class Stop(Exception):
    """Ends the sync with one message and an exit code, without a traceback."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """One line on standard error; standard output belongs to the task that follows."""
    print(f"sync: {message}", file=sys.stderr, flush=True)


def lock_folder(root: str, name: str) -> str:
    """The folder of the environment's lock; refuses an environment that has none."""
    folder = os.path.join(root, "envs", name)
    if not os.path.exists(os.path.join(folder, "requirements.lock")):
        raise Stop(2, f"environment '{name}' has no Python lock yet (envs/{name}/requirements.lock): nothing was installed. Use `default`.")
    return folder


def package_folders(root: str) -> list[str]:
    """Our own packages, in the order of their names."""
    folder = os.path.join(root, "packages")
    return [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if os.path.exists(os.path.join(folder, n, "pyproject.toml"))]


def fingerprint(root: str, folder: str) -> str:
    """What the environment's packages depend on, as one sha256: locks, our pyprojects, the interpreter, these scripts, the place."""
    paths = [os.path.join(folder, n) for n in ("requirements.lock", "cuda-runtime.lock", "profile.toml")]
    paths += [os.path.join(root, "envs", n) for n in OUR_SOURCES]
    paths += [os.path.join(p, "pyproject.toml") for p in package_folders(root)]
    digest = hashlib.sha256(f"{sys.version}\n{root}\n{sys.prefix}\n".encode())
    for path in paths:
        if os.path.exists(path):
            with open(path, "rb") as file:
                digest.update(f"{path}\n".encode() + file.read())
    return digest.hexdigest()


def stamped(prefix: str) -> str:
    """The fingerprint with which the last complete sync ended, or ''."""
    try:
        with open(os.path.join(prefix, STAMP), encoding="utf-8") as file:
            return file.readline().strip()
    except FileNotFoundError:
        return ""


def guard(root: str) -> None:
    """Refuses an interpreter that is not this workspace's own: an exact sync would delete a user's packages."""
    place = os.environ.get("CONDA_PREFIX") if os.path.isdir(os.path.join(sys.prefix, "conda-meta")) else os.environ.get("VIRTUAL_ENV")
    ours = os.path.realpath(os.environ.get("PIXI_PROJECT_ROOT", "")) == os.path.realpath(root)
    if not ours or not place or os.path.realpath(place) != os.path.realpath(sys.prefix):
        raise Stop(2, f"{sys.executable} is not an environment of this workspace, and its packages would be replaced: use `./pixiw run sync`")


def run(what: str, command: list[str], environment: dict[str, str]) -> None:
    """One phase as a child process: says what and how long; on failure its last words become the message."""
    import re  # noqa: PLC0415 (the slow path's own imports)
    import subprocess  # noqa: PLC0415
    import tempfile  # noqa: PLC0415
    import time  # noqa: PLC0415

    say(what)
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT) as child:
            while True:
                try:
                    code = child.wait(timeout=HEARTBEAT)
                    break
                except subprocess.TimeoutExpired:
                    say(f"... still at work ({time.monotonic() - start:.0f} s)")
        output.seek(0)
        text = output.read()
    if code:
        raise Stop(3, f"{what}: failed: {reason(text)}\n{text.strip()[-2000:]}")
    counts = re.findall(r"^(?:Installed|Uninstalled|Bytecode compiled) [^\n]*", text, re.MULTILINE)
    say("; ".join([f"done in {time.monotonic() - start:.1f} s", *counts]))


def reason(text: str) -> str:
    """What the installer's failure means to the user, judged by its words."""
    words = text.lower()
    if "no space left" in words or "disk quota" in words:
        return "the disk is full; free some space and start again (nothing is lost)"
    if "hash" in words and ("mismatch" in words or "do not match" in words):
        return "a downloaded file is not the one that was locked (sha256 differs); it was not installed. Look at the index or mirror"
    network = ("failed to fetch", "error sending request", "dns", "connection", "timed out", "name resolution", "unreachable")
    if any(word in words for word in network):
        return "the package index cannot be reached; check network, proxy, or the index and folder settings (PIP_* and UV_* are both read)"
    return "the installer says:"


def installer(environment: dict[str, str]) -> str:
    """The path of uv: the one that pixi.lock pins in a pixi environment; in another, bootstrapped by pip from envs/uv.lock."""
    import re  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    uv = os.path.join(sys.prefix, "bin", "uv")
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        if not os.path.exists(uv):
            raise Stop(3, f"{uv} is missing: run `pixi install`")
        return uv
    with open(os.path.join(ROOT, "envs", "uv.lock"), encoding="utf-8") as file:
        pinned = re.findall(r"^uv==(\S+)", file.read(), re.MULTILINE)[0]
    if os.path.exists(uv):
        found = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False).stdout.split()
        if found[1:2] == [pinned]:
            return uv
    # these would send the file elsewhere or forbid it
    clean = {k: v for k, v in environment.items() if k not in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT")}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    run(f"installing uv {pinned} (the installer, 25 MB)", [*command, "-r", os.path.join(ROOT, "envs", "uv.lock")], clean)
    return uv


def synchronise(root: str, folder: str, wanted: str) -> None:
    """The slow path, under the environment's lock: installs, then writes the stamp."""
    import index_settings  # noqa: PLC0415
    import torch_build  # noqa: PLC0415

    stamp = os.path.join(sys.prefix, STAMP)
    if os.path.exists(stamp):
        os.unlink(stamp)
    name = os.path.basename(folder)
    say(f"environment '{name}' ({sys.prefix}): packages are made to fit its lock")
    settings = index_settings.read(os.environ)
    uv = installer(dict(os.environ))
    with open(os.path.join(folder, "requirements.lock"), encoding="utf-8") as file:
        lock = file.read()
    choice = torch_build.choose(folder, settings.folders, offline=settings.no_index)
    say(choice.why)
    derived = os.path.join(sys.prefix, "tanren-requirements.lock")
    with open(derived, "w", encoding="utf-8") as file:
        file.write(torch_build.derive(lock, choice))
    locks = [derived, os.path.join(folder, "cuda-runtime.lock")] if choice.cuda_runtime else [derived]
    environment = settings.environment(os.environ)
    command = [uv, "pip", "sync", "--python", sys.executable, "--require-hashes", "--compile-bytecode", *locks]
    count = torch_build.count(locks)
    run(f"downloading and installing {count} packages: {choice.expect}", command, environment)
    editables = [argument for package in package_folders(root) for argument in ("-e", package)]
    command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--no-build-isolation", *editables]
    run(f"installing our own {len(editables) // 2} packages (editable)", command, environment)
    with open(stamp + ".partial", "w", encoding="utf-8") as file:
        file.write(f"{wanted}\ntorch: {choice.why}\n")
    os.replace(stamp + ".partial", stamp)


def sync(root: str, force: bool = False) -> None:
    """Brings the environment of this interpreter in line with its lock, once at a time."""
    folder = lock_folder(root, os.environ.get("PIXI_ENVIRONMENT_NAME", "default"))
    guard(root)
    wanted = fingerprint(root, folder)
    if stamped(sys.prefix) == wanted and not force:
        return
    import fcntl  # noqa: PLC0415

    with open(os.path.join(sys.prefix, "tanren-sync.lock"), "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing into this environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if stamped(sys.prefix) != wanted or force:  # the other start may have done it
            synchronise(root, folder, wanted)


def main() -> int:
    """The exit code; one message for a user's or machine's fault."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["--force"]):
        say(f"unknown arguments {arguments}: only --force is known")
        return 2
    try:
        sync(ROOT, force=bool(arguments))
    except Stop as stop:
        say(str(stop))
        return stop.code
    except OSError as error:
        say(f"{error.strerror}: {error.filename or sys.prefix}")
        return 3
    except KeyboardInterrupt:
        say("interrupted; the next start begins the installation again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
