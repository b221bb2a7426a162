"""Runs the tasks of pixi.toml without pixi, in .venv, made from a package index alone. Started by `pixiw`.

It understands the part of pixi that the tasks here use: `cmd` without shell syntax, `depends-on`, `env`,
`cwd`, and arguments that are added to the last task's command. Whatever else it meets it refuses with a
message, instead of doing something similar. Standard library only.
"""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from stop import Stop

ROOT = Path(__file__).resolve().parent.parent
MARKER = "tanren-venv"  # in .venv: made by us, and complete
SHELL = set("|&;<>$`*?(){}[]~#\n\\")  # what pixi's shell would interpret
KNOWN = {"cmd", "depends-on", "env", "cwd", "description"}
PIXI = "get pixi 0.75 or newer from https://github.com/prefix-dev/pixi/releases and start again"


@dataclass(frozen=True)
class Task:
    """One task of pixi.toml."""

    name: str
    command: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "."
    description: str = ""


def only_pixi(name: str, what: str) -> Stop:
    """The refusal of a task that is written in a way which only pixi understands."""
    return Stop(2, f"pixi.toml: task '{name}': {what}: only pixi runs it. To run it, {PIXI}")


def say(message: str) -> None:
    """One line on standard error; standard output belongs to the task."""
    print(f"pixiw: {message}", file=sys.stderr, flush=True)


def read_task(name: str, raw: object) -> Task:
    """A task as written in pixi.toml; refuses what is not understood here."""
    table = {"cmd": raw} if isinstance(raw, str) else {"depends-on": raw} if isinstance(raw, list) else raw
    if not isinstance(table, dict) or set(table) - KNOWN:
        raise only_pixi(name, f"it has {sorted(set(table) - KNOWN) if isinstance(table, dict) else raw}")
    command = table.get("cmd", "")
    if isinstance(command, str):
        if SHELL & set(command):
            raise only_pixi(name, f"`{command}` has shell syntax ({' '.join(sorted(SHELL & set(command)))})")
        command = shlex.split(command)
    if command and "=" in command[0]:
        raise only_pixi(name, f"`{command[0]}` sets a variable (here the table's `env` does)")
    before = table.get("depends-on", [])
    before = before if isinstance(before, list) else [before]
    if not all(isinstance(item, str) for item in before):
        raise only_pixi(name, "depends-on has arguments or environments")
    return Task(
        name,
        tuple(command),
        tuple(before),
        table.get("env", {}),
        table.get("cwd", "."),
        table.get("description", ""),
    )


def read_tasks(manifest: Path) -> dict[str, Task]:
    """The tasks of the default environment."""
    raw = tomllib.loads(manifest.read_text(encoding="utf-8")).get("tasks", {})
    return {name: read_task(name, table) for name, table in raw.items()}


def order(tasks: dict[str, Task], name: str) -> list[Task]:
    """The task after everything that it depends on, each once."""
    done: dict[str, Task] = {}

    def visit(wanted: str, path: tuple[str, ...]) -> None:
        if wanted in path:
            raise Stop(2, f"pixi.toml: tasks depend on each other in a circle: {' -> '.join((*path, wanted))}")
        if wanted not in tasks:
            raise Stop(2, f"pixi.toml: task '{path[-1]}' depends on '{wanted}', which does not exist")
        for before in tasks[wanted].depends_on:
            visit(before, (*path, wanted))
        done.setdefault(wanted, tasks[wanted])

    visit(name, ())
    return list(done.values())


def listing(tasks: dict[str, Task]) -> str:
    """The tasks with their descriptions, for people."""
    width = max(map(len, tasks))
    return "\n".join(f"  {task.name:<{width}}  {task.description}" for task in tasks.values())


def parse(arguments: list[str]) -> tuple[str, list[str]]:
    """(task, its arguments) of `run [-e default] TASK ...`; ('', []) to list the tasks."""
    if arguments[:2] == ["task", "list"] or arguments in ([], ["run"], ["task"], ["--help"], ["-h"]):
        return "", []
    if arguments[0] != "run":
        here = "here (index-only CPU environment) there are `run TASK` and `task list`"
        raise Stop(2, f"`{arguments[0]}` needs pixi; {here}. For more, {PIXI}")
    rest = arguments[1:]
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        environment = ""
        if option in ("-e", "--environment"):
            environment = rest.pop(0) if rest else ""
        elif option.startswith("--environment="):
            environment = option.partition("=")[2]
        elif option.startswith("-e"):
            environment = option[2:].removeprefix("=")
        elif option == "--":
            break
        elif option not in ("--locked", "--frozen"):  # both always hold here
            raise Stop(2, f"option {option} of `run` needs pixi: {PIXI}")
        else:
            continue
        if environment != "default":
            what = f"environment '{environment}' needs pixi, which brings its CUDA toolkit and compilers"
            raise Stop(2, f"{what}; here there is `default`: {PIXI}")
    return (rest[0], rest[1:]) if rest else ("", [])


def complete(venv: Path) -> bool:
    """Whether .venv was made by us to the end, in this place, and its Python still runs here."""
    marker = venv / MARKER
    made_here = marker.exists() and marker.read_text(encoding="utf-8") == f"{venv}\n"
    return made_here and (venv / "bin" / "python").exists()


def ensure_venv(venv: Path) -> None:
    """Makes .venv with this Python if it is missing or half-made; never touches one that is not ours."""
    if complete(venv):
        return
    import fcntl

    venv.parent.joinpath(".pixi").mkdir(exist_ok=True)
    with (venv.parent / ".pixi" / "venv.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete(venv):
            return
        if venv.exists() and any(venv.iterdir()) and not (venv / MARKER).exists():
            raise Stop(2, f"{venv} was not made by pixiw and would be replaced: move it away and start again")
        base = Path(getattr(sys, "_base_executable", sys.executable))
        if venv.exists():
            say(f"{venv.name} is unfinished, moved or without its Python: made again")
            shutil.rmtree(venv)
        say(f"making {venv.name} with Python {sys.version.split()[0]} ({base}), about 5 s")
        venv.mkdir()
        (venv / MARKER).write_text("unfinished\n", encoding="utf-8")
        made = subprocess.run([base, "-m", "venv", str(venv)], check=False, stdout=sys.stderr)
        if made.returncode:
            raise Stop(3, f"`{base} -m venv {venv}` failed (exit code {made.returncode}): is the disk full?")
        (venv / MARKER).write_text(f"{venv}\n", encoding="utf-8")


def activation(manifest: Path) -> dict[str, str]:
    """The variables that pixi.toml sets in every environment."""
    table = tomllib.loads(manifest.read_text(encoding="utf-8")).get("activation", {})
    if set(table) - {"env"} or any("$" in str(value) for value in table.get("env", {}).values()):
        raise Stop(2, f"pixi.toml: [activation] has more than plain variables: only pixi sets it up. {PIXI}")
    return {name: str(value) for name, value in table.get("env", {}).items()}


def environment(root: Path, venv: Path) -> dict[str, str]:
    """What pixi and an activated venv would set."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "CONDA_PREFIX")}
    kept["PATH"] = f"{venv / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept |= {"VIRTUAL_ENV": str(venv), "PIXI_PROJECT_ROOT": str(root), "PIXI_ENVIRONMENT_NAME": "default"}
    kept.setdefault("INIT_CWD", str(Path.cwd()))
    return kept | activation(root / "pixi.toml")


def start(task: Task, extra: list[str], root: Path, env: dict[str, str]) -> NoReturn:
    """Becomes the task's command, so that signals and exit code are its own."""
    command = [*task.command, *extra]
    os.chdir(root / task.cwd)
    sys.stdout.flush()
    try:
        os.execvpe(  # noqa: S606 (no shell is the point)
            command[0], command, {**env, **task.env}
        )
    except OSError as error:
        raise Stop(3, f"task '{task.name}': {command[0]}: {error.strerror}") from error


def run(name: str, extra: list[str], root: Path) -> int:
    """Runs a task after those it depends on; returns only where one of these fails or it has no command."""
    tasks = read_tasks(root / "pixi.toml")
    venv = root / ".venv"
    if not name:
        print(f"tasks (./pixiw run TASK [arguments]):\n{listing(tasks)}")
        return 0
    if name not in tasks and (name == "python" or (venv / "bin" / name).exists()):
        tasks[name] = Task(
            name, (name,), ("sync",) if "sync" in tasks else ()
        )  # as pixi does: a program of the environment
    if name not in tasks:
        near = difflib.get_close_matches(name, tasks, 1)
        raise Stop(2, f"there is no task '{name}'{f'; did you mean `{near[0]}`?' if near else ''}\n{listing(tasks)}")
    *before, last = order(tasks, name)
    if extra and not last.command:
        raise Stop(2, f"task '{name}' has no command of its own and takes no arguments: {extra}")
    ensure_venv(venv)
    env = environment(root, venv)
    for task in [*before, *([] if last.command else [last])]:
        if task.command:
            code = child(task, root, env)
            if code:
                return code
    if last.command:
        start(last, extra, root, env)
    return 0


def child(task: Task, root: Path, env: dict[str, str]) -> int:
    """Runs a task that another depends on; its exit code, 128 + the signal's number where one ended it."""
    with subprocess.Popen(task.command, cwd=root / task.cwd, env={**env, **task.env}) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal sent it to the child too: let it end in its own way
            process.wait()
            return 130
    return 128 - code if code < 0 else code


def main() -> int:
    """The exit code."""
    try:
        name, extra = parse(sys.argv[1:])
        return run(name, extra, ROOT)
    except Stop as refusal:
        say(str(refusal))
        return refusal.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
