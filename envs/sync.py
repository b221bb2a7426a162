"""Makes this environment's Python packages exactly the lock: the task `sync`, before all that runs our code.

Nothing changed: the stamp in the environment's folder says so and this ends at once (so nothing heavy is
imported before the stamp is read). Otherwise: the installer (uv, hash-pinned), the choice of torch's build,
the lock (every file by sha256), our own packages (editable), and last the stamp: an interrupted sync has
none, and the next start does it again. `--force` does it in any case, after packages were changed by hand.
Exit codes: 0, 2 the user's mistake, 3 the machine's.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "tanren-sync.stamp"
OUR_SOURCES = ("sync.py", "torch_build.py", "index_settings.py", "release_wheels.py", "lock_format.py", "uv.lock")
HEARTBEAT = 15  # s of silence before a line says that the work goes on


class Stop(Exception):  # noqa: N818 (it ends the command; most are not program errors)
    """Ends the sync with one message and an exit code, without a traceback."""

    def __init__(self, code: int, message: str) -> None:
        """Keeps the exit code beside the message."""
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """One line on standard error; standard output belongs to the task that follows."""
    print(f"sync: {message}", file=sys.stderr, flush=True)


def lock_folder(root: Path, name: str) -> Path:
    """The folder of the environment's lock; refuses an environment that has none."""
    folder = root / "envs" / name
    if not (folder / "requirements.lock").exists():
        missing = f"environment '{name}' has no Python lock yet (envs/{name}/requirements.lock)"
        raise Stop(2, f"{missing}: nothing was installed. The environment `default` has one")
    return folder


def our_projects(root: Path) -> list[Path]:
    """The pyproject.toml of each of our own packages, in the order of their names."""
    return sorted((root / "packages").glob("*/pyproject.toml"))


def fingerprint(root: Path, folder: Path) -> str:
    """All that the packages depend on, as one sha256: locks, pyprojects, Python, these scripts, the place."""
    paths = [folder / name for name in ("requirements.lock", "cuda-runtime.lock", "profile.toml")]
    paths += [*(root / "envs" / name for name in OUR_SOURCES), *our_projects(root)]
    digest = hashlib.sha256(f"{sys.version}\n{root}\n{sys.prefix}\n".encode())
    for path in paths:
        if path.exists():
            digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def stamped(prefix: Path) -> str:
    """The fingerprint with which the last complete sync ended, or ''."""
    stamp = prefix / STAMP
    return stamp.read_text(encoding="utf-8").partition("\n")[0] if stamp.exists() else ""


def is_conda(prefix: Path) -> bool:
    """Whether pixi made this environment (else it is a venv)."""
    return (prefix / "conda-meta").is_dir()


def guard(root: Path, prefix: Path) -> None:
    """Refuses a Python that is not this workspace's own: an exact sync would delete a user's packages."""
    active = os.environ.get("CONDA_PREFIX" if is_conda(prefix) else "VIRTUAL_ENV", "")
    workspace = os.environ.get("PIXI_PROJECT_ROOT", "")
    for found, wanted in ((active, prefix), (workspace, root)):
        if not found or Path(found).resolve() != wanted.resolve():
            fault = f"{prefix} is no environment of this workspace and would lose its packages"
            raise Stop(2, f"{fault}: use `./pixiw run sync`")


def run(what: str, command: list[str], environment: dict[str, str], expect: str = "") -> None:
    """One phase as a child process: says what and how long; on failure its last words become the message."""
    import re
    import subprocess
    import tempfile
    import time

    say(f"{what} ({expect})" if expect else what)
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
        return "a file is not the one that was locked (sha256 differs) and was not installed: look at the index"
    network = (
        "failed to fetch",
        "error sending request",
        "dns",
        "connection",
        "timed out",
        "name resolution",
        "unreachable",
    )
    if any(word in words for word in network):
        return "the package index cannot be reached: look at network, proxy, and index settings (PIP_*, UV_*)"
    return "the installer says:"


def installer(root: Path, prefix: Path, environment: dict[str, str]) -> str:
    """The path of uv: in a pixi environment pixi.lock pins it; in a venv pip installs envs/uv.lock."""
    import re
    import subprocess

    uv = prefix / "bin" / "uv"
    if is_conda(prefix):
        if not uv.exists():
            raise Stop(3, f"{uv} is missing: run `pixi install`")
        return str(uv)
    lock = root / "envs" / "uv.lock"
    pinned = re.findall(r"^uv==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)[0]
    if uv.exists():
        found = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False).stdout.split()
        if found[1:2] == [pinned]:
            return str(uv)
    # these would send the file elsewhere or forbid it
    misleading = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT"}
    clean = {key: value for key, value in environment.items() if key not in misleading}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "-r", str(lock)]
    run(f"installing uv {pinned}, the installer", command, clean, "25 MB")
    return str(uv)


def synchronise(root: Path, folder: Path, prefix: Path, wanted: str) -> None:
    """The slow path, under the environment's lock: installs, then writes the stamp."""
    import index_settings
    import release_wheels
    import torch_build

    stamp = prefix / STAMP
    stamp.unlink(missing_ok=True)
    say(f"environment '{folder.name}' ({prefix}): packages are made to fit its lock")
    settings = index_settings.read(os.environ)
    uv = installer(root, prefix, dict(os.environ))
    os.environ.update(settings.variables)  # the question for the release address goes by the same proxy
    try:
        choice = torch_build.choose(folder, settings.folders, offline=settings.no_index)
    except torch_build.WrongWheel as fault:
        raise Stop(3, str(fault)) from fault
    say(choice.why)
    derived = prefix / "tanren-requirements.lock"
    lock = (folder / "requirements.lock").read_text(encoding="utf-8")
    lock = release_wheels.from_folders(torch_build.derive(lock, choice), settings.folders)
    derived.write_text(lock, encoding="utf-8")
    locks = [derived, folder / "cuda-runtime.lock"] if choice.cuda_runtime else [derived]
    environment = settings.environment(os.environ)
    command = [uv, "pip", "sync", "--python", sys.executable, "--require-hashes", "--compile-bytecode"]
    what = f"downloading and installing {torch_build.count(locks)} packages"
    run(what, [*command, *settings.flags, *map(str, locks)], environment, choice.expect)
    packages = [str(project.parent) for project in our_projects(root)]
    command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--no-build-isolation", *settings.flags]
    command += [argument for package in packages for argument in ("-e", package)]
    run(f"installing our own {len(packages)} packages (editable)", command, environment)
    # Compiled once, for those who keep Python from writing bytecode: --help answers 0.1 s sooner.
    compilation = [sys.executable, "-m", "compileall", "-q", "packages", "tasks"]
    run("compiling them", compilation, environment)
    aside = stamp.with_suffix(".partial")
    aside.write_text(f"{wanted}\n{choice.why}\n", encoding="utf-8")
    aside.replace(stamp)


def sync(root: Path, force: bool = False) -> None:
    """Brings the environment of this interpreter in line with its lock, once at a time."""
    prefix = Path(sys.prefix)
    folder = lock_folder(root, os.environ.get("PIXI_ENVIRONMENT_NAME", "default"))
    guard(root, prefix)
    wanted = fingerprint(root, folder)
    if stamped(prefix) == wanted and not force:
        return
    import fcntl

    with (prefix / "tanren-sync.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing into this environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if stamped(prefix) != wanted or force:  # the other start may have done it
            synchronise(root, folder, prefix, wanted)


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
