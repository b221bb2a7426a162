"""A Python: its folder, version, headers and where it looks for packages; this one, or another by running it."""

from __future__ import annotations

import json
import platform
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tanren.common.doctor._child import run

_QUESTION = """
import json, platform, sys, sysconfig
paths = sysconfig.get_paths(scheme="posix_prefix")
places = [paths[key] for key in ("include", "purelib", "platlib")]
print("\\n" + json.dumps([sys.prefix, platform.python_version(), *places]))
"""


@dataclass(frozen=True)
class Interpreter:
    """Facts of one Python."""

    prefix: Path
    version: str
    include: Path
    site_packages: tuple[Path, ...]
    search_path: tuple[str, ...]
    user_site: str
    """The folder of packages in the user's home; '' where it does not look there."""


def this_interpreter() -> Interpreter:
    """Return the Python that runs."""
    paths = sysconfig.get_paths(scheme="posix_prefix")  # as Triton asks: Debian's own scheme adds local/
    return Interpreter(
        prefix=Path(sys.prefix),
        version=platform.python_version(),
        include=Path(paths["include"]),
        site_packages=tuple(dict.fromkeys(Path(paths[key]) for key in ("purelib", "platlib"))),
        search_path=tuple(sys.path),
        user_site=site.getusersitepackages() if site.ENABLE_USER_SITE else "",
    )


def read_interpreter(program: Path) -> tuple[Interpreter, str]:
    """Return another Python by asking it, and why it did not answer ('' where it did).

    Where it looks for packages is left out: that is decided by the variables of the process that starts it.
    """
    prefix = program.parent.parent
    answer = run([program, "-I", "-c", _QUESTION], limit=10)  # a program on a cold network disk takes seconds
    if answer.code != 0:
        said = answer.last_line or f"exit code {answer.code}"
        return Interpreter(prefix, "", prefix / "include", (), (), ""), f"{program} does not start: {said}"
    found, version, include, *packages = json.loads(answer.last_line)
    folders = tuple(dict.fromkeys(Path(folder) for folder in packages))
    return Interpreter(Path(found), version, Path(include), folders, (), ""), ""
