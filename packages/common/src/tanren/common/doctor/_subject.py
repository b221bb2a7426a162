"""What is examined: a Python, the process's variables, the machine, and the environment that they should be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from tanren.common.doctor._installed import Installed, read_distributions
from tanren.common.doctor._interpreter import Interpreter, read_interpreter, this_interpreter
from tanren.common.doctor._nvml import NOT_READ, Reading, read_nvml
from tanren.common.doctor._recipe_file import Recipe
from tanren.common.doctor._resources import Resources, read_resources
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
    """Of the environment's Python: sys.prefix, or where it would be."""
    python: str
    """Its version; '' where there is none."""
    include: Path
    """Where its headers belong."""
    site_packages: tuple[Path, ...]
    search_path: tuple[str, ...]
    """sys.path."""
    user_site: str
    """The folder of packages in the user's home; '' where this Python does not look there."""

    resources: Resources = field(default_factory=Resources)
    runs: bool = True
    """False after --env: this process does not run in the environment."""
    fault: str = ""
    """Why nothing could be asked of the environment's own Python, where it is not this one."""
    recipe: Recipe | None = None

    @property
    def installed(self) -> bool:
        """Whether the environment is there; one that runs is."""
        return self.runs or (self.prefix / "bin" / "python").exists()

    @cached_property
    def distributions(self) -> tuple[Installed, ...]:
        """What is in its folder of packages: read when it is first asked for."""
        return tuple(read_distributions(self.site_packages))

    @property
    def is_pixi(self) -> bool:
        """Whether pixi made the environment (else it is a venv, or the machine's own Python)."""
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


def read_subject(
    expect_env: str | None, wants_gpu: bool, *, env: str | None = None, recipe: Recipe | None = None
) -> Subject:
    """Return the facts of this process and machine, and of `env` where that is another environment.

    Raises UserError outside a workspace, for an environment that does not exist, and where both are named.
    """
    return with_gpus(read_surroundings(expect_env, wants_gpu, env=env, recipe=recipe))


def read_surroundings(
    expect_env: str | None, wants_gpu: bool, *, env: str | None = None, recipe: Recipe | None = None
) -> Subject:
    """Return the same without the GPUs: on a machine that has been idle NVML takes seconds to wake them."""
    if env is not None and expect_env is not None:
        raise UserError(
            "--env judges this machine for another environment, --expect-env says which one this must be: name one of them"
        )
    root = find_workspace()
    active = os.environ.get("PIXI_ENVIRONMENT_NAME")
    environment = env or expect_env or active or UNNAMED
    try:
        profile, architectures = profile_of(root, environment), read_architectures(root)
    except EnvironmentsError as fault:
        raise UserError(str(fault)) from fault
    runs = env is None or env == active
    python, problem = (this_interpreter(), "") if runs else _other_interpreter(environment_folder(root, environment))
    return Subject(
        root=root,
        environment=environment,
        profile=profile,
        architectures=architectures,
        host=read_host(),
        reading=NOT_READ,
        wants_gpu=wants_gpu,
        named=expect_env is not None,
        variables=dict(os.environ),
        prefix=python.prefix,
        python=python.version,
        include=python.include,
        site_packages=python.site_packages,
        search_path=python.search_path,
        user_site=python.user_site,
        resources=read_resources(),
        runs=runs,
        fault=problem,
        recipe=recipe,
    )


def with_gpus(subject: Subject) -> Subject:
    """Return the subject with what NVML says; as it is for an environment without GPUs and after --no-gpu."""
    if subject.profile.cuda is None or not subject.wants_gpu or subject.reading is not NOT_READ:
        return subject
    reading = read_nvml()
    return replace(subject, reading=reading, host=read_host_with(reading))


def environment_folder(root: Path, environment: str) -> Path:
    """Return where an environment is, or would be: pixi's folder; without pixi the CPU environment's .venv."""
    folder, venv = root / ".pixi" / "envs" / environment, root / ".venv"
    return venv if environment == UNNAMED and not folder.is_dir() and venv.is_dir() else folder


def _other_interpreter(prefix: Path) -> tuple[Interpreter, str]:
    program = prefix / "bin" / "python"
    nothing = Interpreter(prefix, "", prefix / "include", (), (), "")
    return read_interpreter(program) if program.exists() else (nothing, "")


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
