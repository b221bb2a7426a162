"""What is examined: this process's Python, variables and machine, and the environment that they should be."""

from __future__ import annotations

import os
import platform
import site
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tanren.common.doctor._nvml import NOT_READ, Reading, read_nvml
from tanren.common.environments import (
    Architectures,
    EnvironmentsError,
    Host,
    Profile,
    profile_of,
    read_architectures,
    read_host,
)
from tanren.common.errors import UserError
from tanren.common.workspace import workspace_root

UNNAMED = "default"
"""Judged where neither --expect-env nor pixi names an environment: the one that needs nothing of the machine."""


@dataclass(frozen=True)
class Subject:
    """The facts that the checks judge; they read no other global state, so that a test can change each."""

    root: Path
    """The workspace."""
    environment: str
    """The pixi environment against which all is judged."""
    profile: Profile
    architectures: Architectures
    host: Host
    reading: Reading
    """Of the GPUs."""
    wants_gpu: bool
    """False after --no-gpu: a machine without a GPU is no fault."""
    named: bool
    """Whether the user named the environment (--expect-env)."""
    variables: Mapping[str, str]
    """Of the process."""
    prefix: Path
    """Of this Python: sys.prefix."""
    python: str
    """Its version."""
    include: Path
    """Where its headers belong."""
    site_packages: tuple[Path, ...]
    search_path: tuple[str, ...]
    """sys.path."""
    user_site: str
    """The folder of packages in the user's home; '' where this Python does not look there."""

    @property
    def is_pixi(self) -> bool:
        """Whether pixi made this Python's environment (else it is a venv, or the machine's own Python)."""
        return (self.prefix / "conda-meta").is_dir()

    def holds(self, path: Path) -> bool:
        """Whether a path lies inside this Python's environment.

        Its last part is not followed: where the package cache is on another disk, an installed file may be a link.
        """
        places = (path.parent.resolve() / path.name, path.resolve())
        return any(place.is_relative_to(self.prefix.resolve()) for place in places)

    def run(self, task: str) -> str:
        """Return the command that runs a task in the environment."""
        return f"./pixiw run -e {self.environment} {task}"

    @property
    def reinstall(self) -> str:
        """How to bring back Python itself and, with pixi, compilers, toolkit and headers."""
        if self.is_pixi:
            return f"./pixiw reinstall --locked -e {self.environment}"
        return f"move {self.prefix} away: the next `./pixiw run` makes it again"


def read_subject(expect_env: str | None, wants_gpu: bool) -> Subject:
    """Return the facts of this process and machine.

    Raises UserError outside a workspace and for an environment that does not exist.
    """
    root = find_workspace()
    environment = expect_env or os.environ.get("PIXI_ENVIRONMENT_NAME") or UNNAMED
    try:
        profile, architectures = profile_of(root, environment), read_architectures(root)
    except EnvironmentsError as fault:
        raise UserError(str(fault)) from fault
    reading = read_nvml() if profile.cuda and wants_gpu else NOT_READ
    paths = sysconfig.get_paths(scheme="posix_prefix")  # as Triton asks: Debian's own scheme adds local/
    return Subject(
        root=root,
        environment=environment,
        profile=profile,
        architectures=architectures,
        host=read_host_with(reading),
        reading=reading,
        wants_gpu=wants_gpu,
        named=expect_env is not None,
        variables=dict(os.environ),
        prefix=Path(sys.prefix),
        python=platform.python_version(),
        include=Path(paths["include"]),
        site_packages=tuple(dict.fromkeys(Path(paths[key]) for key in ("purelib", "platlib"))),
        search_path=tuple(sys.path),
        user_site=site.getusersitepackages() if site.ENABLE_USER_SITE else "",
    )


def find_workspace() -> Path:
    """Return the folder of the workspace; UserError outside one."""
    root = workspace_root()
    if root is None:
        raise UserError(
            f"there is no workspace: neither {Path.cwd()} nor a folder above it has pixi.toml and tasks/: "
            "start inside the workspace, or set PIXI_PROJECT_ROOT to its folder"
        )
    return root


def read_host_with(reading: Reading) -> Host:
    """Return this machine's facts; NVML's driver and cards where /proc has none of them (WSL2)."""
    host = read_host()
    return replace(
        host,
        driver=host.driver or reading.driver,
        gpu_names=host.gpu_names or tuple(gpu.name for gpu in reading.gpus if gpu.name),
    )
