"""Makes the locks again, or checks them: `./pixiw run lock [--check|--upgrade] [--only NAME] [--index FOLDER]`.

pixi.lock, the native layer, is solved by pixi itself where it is there, else offline from a folder of
conda-forge records (--index; envs/native_lock.py). The Python locks are resolved by uv
(envs/python_lock.py). No lock names a package index: each installs from any index, mirror or wheel folder.
Only locks that no longer fit their inputs are made again, unless one is named (--only) or newer versions
are asked for (--upgrade); a version that fits moves only with --upgrade.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packages" / "common" / "src"))

import native_lock  # noqa: E402 (after the path)
import native_solve  # noqa: E402
import python_lock  # noqa: E402
import strict_table  # noqa: E402

from tanren.common.environments import read_profiles  # noqa: E402


def main() -> int:
    """0 done or up to date; 1 checked and found wanting; 2 the user's mistake."""
    names = [profile.name for profile in read_profiles(ROOT)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the locks fit their inputs (no network)")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the inputs allow")
    parser.add_argument(
        "--only", choices=["native", "uv", *names], action="append", help="this lock alone (may be repeated)"
    )
    parser.add_argument("--index", type=Path, help="solve pixi.lock from this folder of <subdir>/repodata.json")
    arguments = parser.parse_args()
    if not arguments.check:
        try:
            everything = arguments.upgrade or arguments.index
            wanted = arguments.only or (["native", "uv", *names] if everything else stale(names))
            make(wanted, arguments.upgrade, arguments.index)
        except (python_lock.LockError, strict_table.ManifestError) as fault:
            print(f"lock: {fault}", file=sys.stderr)
            return 2
        except native_solve.NativeLockError as fault:
            print(f"lock: {fault}", file=sys.stderr)
            return fault.code
    found = native_lock.problems(ROOT) + python_lock.problems(ROOT)
    for line in found:
        print(f"lock: {line}", file=sys.stderr)
    if not found:
        print("lock: up to date")
    return 1 if found else 0


def stale(names: list[str]) -> list[str]:
    """The locks that do not fit their inputs, by the names that --only takes."""
    native = ["native"] if native_lock.problems(ROOT) else []
    faults = python_lock.problems(ROOT)
    return native + [
        name
        for name in ("uv", *names)
        if any(fault.startswith(f"envs/{name}.lock" if name == "uv" else f"envs/{name}/") for fault in faults)
    ]


def make(wanted: list[str], upgrade: bool, index: Path | None) -> None:
    """Regenerates the locks that are wanted, saying each."""
    if "native" in wanted:
        print(f"lock: {native_lock.refresh(ROOT, index, upgrade)}")
    if "uv" in wanted:
        print(f"lock: {python_lock.make_uv(ROOT)}")
    for profile in read_profiles(ROOT):
        if profile.name in wanted:
            for line in python_lock.make(ROOT, profile, upgrade):
                print(f"lock: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
