"""Makes this environment's Python packages exactly the lock: the task `sync`, before all that runs our code.

Nothing changed: the stamp in the environment's folder says so and this ends at once (so nothing heavy is
imported before the stamp is read). Otherwise: is the environment for this machine, was the lock made from
what is declared; then the installer (uv, hash-pinned), the choice of torch's build, the lock (every file by
sha256, none built from source), our own packages (editable), and last the stamp. The stamp holds the time of
the last change in site-packages: a package installed or removed by hand is noticed and undone. An interrupted
sync leaves a mark: the next one installs every package anew, since a torn one cannot be told from a whole one.
`--force` does it in any case; `--stale` takes a lock that was made from other inputs (for `lock`, which makes
it again). Exit codes: 0, 2 the user's mistake, 3 the machine's.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stop import Stop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packages" / "common" / "src"))
if TYPE_CHECKING:
    from index_settings import Settings

    from tanren.common.environments import Profile

STAMP = "tanren-sync.stamp"
UNFINISHED = "tanren-sync.unfinished"
OUR_SOURCES = (
    "sync.py",
    "stop.py",
    "torch_build.py",
    "release_wheels.py",
    "lock_format.py",
    "lock_inputs.py",
    "index_settings.py",
)
HEARTBEAT = 15  # s of silence before a line says that the work goes on


def say(message: str) -> None:
    """One line on standard error; standard output belongs to the task that follows."""
    print(f"sync: {message}", file=sys.stderr, flush=True)


def profile_of(root: Path, name: str) -> Profile:
    """The profile whose lock the environment installs; refuses an environment that has none."""
    from tanren.common import environments  # standard library only: no package is there yet

    try:
        profile = environments.profile_of(root, name)
    except environments.EnvironmentsError as fault:
        raise Stop(2, f"{fault}. Nothing was installed") from fault
    if not (profile.folder / "requirements.lock").exists():
        raise Stop(2, f"{profile.folder.relative_to(root)}/requirements.lock is missing: nothing was installed")
    return profile


def refuse_host(root: Path, name: str, profile: Profile) -> None:
    """Refuses a machine that the environment is not for, and names those that are for it."""
    from tanren.common import environments

    host, table = environments.read_host(), environments.read_architectures(root)
    if reasons := environments.refusals(profile, host, table):
        fitting = [
            p.environments[0] for p in environments.read_profiles(root) if not environments.refusals(p, host, table)
        ]
        instead = f"for this machine: {', '.join(fitting)}" if fitting else "no environment is for this machine"
        raise Stop(2, f"environment '{name}' cannot be used here: {'; '.join(reasons)} ({instead})")


def refuse_stale(root: Path, folder: Path) -> None:
    """Refuses a lock that was made from other declarations than there are now."""
    from lock_format import made_from
    from lock_inputs import inputs_hash

    if made_from((folder / "requirements.lock").read_text(encoding="utf-8")) != inputs_hash(root, folder):
        lock = f"{folder.relative_to(root)}/requirements.lock"
        fault = f"{lock} does not fit: the dependencies in a pyproject.toml or in envs/ have changed since it was made"
        raise Stop(2, f"{fault}: run `./pixiw run lock` (it needs a package index), or undo the change")


def our_projects(root: Path) -> list[Path]:
    """The pyproject.toml of each of our own packages, in the order of their names."""
    return sorted((root / "packages").glob("*/pyproject.toml"))


def fingerprint(root: Path, folder: Path) -> str:
    """All that the packages depend on, as one sha256: locks and their inputs, Python, these scripts, the place."""
    paths = [*sorted(folder.glob("*.*")), *sorted((root / "envs").glob("*.in")), root / "envs" / "uv.lock"]
    paths += [*(root / "envs" / name for name in OUR_SOURCES), *our_projects(root)]
    digest = hashlib.sha256(f"{sys.version}\n{root}\n{sys.prefix}\n".encode())
    for path in paths:
        digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def site_packages(prefix: Path) -> Path:
    """Where the environment's packages are."""
    return prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def changed_at(prefix: Path) -> str:
    """When a distribution last came into or left site-packages; '' where there is none."""
    folder = site_packages(prefix)
    return str(folder.stat().st_mtime_ns) if folder.is_dir() else ""


def unchanged(root: Path, prefix: Path, name: str) -> bool:
    """Whether the last complete sync was for this environment and nothing has changed since; quick."""
    try:
        wanted, changed, synced, folder = (prefix / STAMP).read_text(encoding="utf-8").splitlines()[:4]
        return synced == name and changed == changed_at(prefix) and wanted == fingerprint(root, root / "envs" / folder)
    except (FileNotFoundError, ValueError):  # no stamp, one of another version, or a file that it covers is gone
        return False


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


def synchronise(root: Path, profile: Profile, prefix: Path, name: str) -> None:
    """The slow path, under the environment's lock: installs, then writes the stamp."""
    import index_settings

    stamp = prefix / STAMP
    wanted = fingerprint(root, profile.folder)  # before: a file that changes meanwhile makes the next start sync again
    stamp.unlink(missing_ok=True)
    say(f"environment '{name}' ({prefix}): packages are made to fit its lock")
    settings = index_settings.read(os.environ)
    uv = installer(root, prefix, dict(os.environ))
    os.environ.update(settings.variables)  # the question for the release address goes by the same proxy
    said = install_lock(profile, prefix, uv, settings)
    packages = [str(project.parent) for project in our_projects(root)]
    command = [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--no-build-isolation", *settings.flags]
    command += [argument for package in packages for argument in ("-e", package)]
    run(f"installing our own {len(packages)} packages (editable)", command, settings.environment(os.environ))
    # Compiled once, for those who keep Python from writing bytecode: --help answers 0.1 s sooner.
    compilation = [sys.executable, "-m", "compileall", "-q", "packages", "tasks"]
    run("compiling them", compilation, dict(os.environ))
    extra = attach_extra(prefix, (profile.folder / "requirements.lock").read_text(encoding="utf-8"))
    aside = stamp.with_suffix(".partial")
    lines = [wanted, changed_at(prefix), name, profile.folder.name, *filter(None, [said, extra])]
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(stamp)
    (prefix / UNFINISHED).unlink()


def install_lock(profile: Profile, prefix: Path, uv: str, settings: Settings) -> str:
    """Makes site-packages exactly the lock; returns which torch was chosen, where there is a choice.

    The mark of an interrupted sync is set before the first change, and left for the caller to take away.
    """
    import release_wheels
    import torch_build

    lock = (profile.folder / "requirements.lock").read_text(encoding="utf-8")
    derived, said, expect = prefix / "tanren-requirements.lock", "", "10 GB on disk: several minutes"
    locks = [derived]
    try:
        if not profile.cuda:
            choice = torch_build.choose(profile.folder, settings.folders, offline=settings.no_index)
            lock, said, expect = torch_build.derive(lock, choice), choice.why, choice.expect
            locks += [profile.folder / "cuda-runtime.lock"] if choice.cuda_runtime else []
            say(said)
        lock, remote = release_wheels.localise(lock, settings.folders)
    except release_wheels.WrongWheel as fault:
        raise Stop(3, str(fault)) from fault
    if remote:
        say(f"from their release addresses: {', '.join(remote)}")
    derived.write_text(lock, encoding="utf-8")
    command = [uv, "pip", "sync", "--python", sys.executable, "--require-hashes", "--compile-bytecode"]
    command += ["--only-binary", ":all:", *settings.flags]
    unfinished = prefix / UNFINISHED
    torn, before = unfinished.exists(), changed_at(prefix)
    if torn:
        say("the last sync was interrupted: every package is installed anew (from the cache where it is there)")
        command.append("--reinstall")
    unfinished.touch()
    what = f"downloading and installing {torch_build.count(locks)} packages"
    try:
        run(what, [*command, *map(str, locks)], settings.environment(os.environ), expect)
    except Stop:
        if not torn and changed_at(prefix) == before:  # it failed before it touched anything: nothing can be torn
            unfinished.unlink()
        raise
    return said


def attach_extra(prefix: Path, lock: str) -> str:
    """Keeps what the user built beside the lock importable while it fits the lock's torch; returns what there is."""
    import build_flash_attn

    built = build_flash_attn.built(prefix)
    if not built:
        return ""
    fits = built.torch == build_flash_attn.locked_torch(lock)
    build_flash_attn.attach(prefix, site_packages(prefix), fits)
    if not fits:
        say(f"{built} was built for torch {built.torch} and is switched off: run `install-flash-attn` again")
        return ""
    return str(built)


def sync(root: Path, force: bool = False, stale: bool = False) -> None:
    """Brings the environment of this interpreter in line with its lock, once at a time."""
    prefix = Path(sys.prefix)
    name = os.environ.get("PIXI_ENVIRONMENT_NAME", "default")
    guard(root, prefix)
    if unchanged(root, prefix, name) and not force:
        return
    profile = profile_of(root, name)
    refuse_host(root, name, profile)
    if not stale:
        refuse_stale(root, profile.folder)
    import fcntl

    with (prefix / "tanren-sync.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing into this environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not unchanged(root, prefix, name) or force:  # the other start may have done it
            synchronise(root, profile, prefix, name)


def main() -> int:
    """The exit code; one message for a user's or machine's fault."""
    arguments = sys.argv[1:]
    if unknown := set(arguments) - {"--force", "--stale"}:
        say(f"unknown arguments {sorted(unknown)}: only --force and --stale are known")
        return 2
    try:
        sync(ROOT, force="--force" in arguments, stale="--stale" in arguments)
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
