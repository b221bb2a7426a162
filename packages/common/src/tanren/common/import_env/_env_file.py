"""The variables of a .env file, each with its line. Nothing but the file is read: not the process's environment either."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tanren.common.errors import UserError


@dataclass(frozen=True)
class Variable:
    """One variable as it stands in a file, its quotes, comment and `export` taken off as python-dotenv does."""

    name: str
    text: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        """File, line and name, as an error begins."""
        return f"{self.file}:{self.line}: {self.name}"

    @property
    def origin(self) -> str:
        """File and line, as a comment of the recipe says."""
        return f"{self.file.name}:{self.line}"


def read_env_file(path: Path) -> dict[str, Variable]:
    """Return the variables of a file by name.

    Raises UserError, with every fault's line, for a file that cannot be read, a line that is no assignment, a variable
    that is there twice, and one that refers to another (`${NAME}`): what that meant depended on the shell.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path} cannot be read: {reason}; name the .env files of the old stages") from None
    found: dict[str, Variable] = {}
    faults: list[str] = []
    for variable, fault in _assignments(path, text):
        earlier = found.get(variable.name)
        if fault:
            faults.append(f"{path}:{variable.line}: {fault}")
        elif earlier is not None:
            faults.append(f"{variable.where} is there twice, first in line {earlier.line}; keep one of them")
        else:
            found[variable.name] = variable
    if faults:
        raise UserError("\n".join(faults))
    return found


def _assignments(path: Path, text: str) -> Iterator[tuple[Variable, str | None]]:
    """Yield the assignments of a file, each with what is wrong with it."""
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        if binding.key is None and not binding.error:
            continue  # a comment, an empty line
        # What is parsed begins with the empty lines before it.
        raw = binding.original.string
        line = binding.original.line + raw[: len(raw) - len(raw.lstrip())].count("\n")
        fault = None
        if binding.error or binding.key is None or binding.value is None:
            fault = f"{raw.strip()!r} is no assignment; expected NAME=value"
        elif "${" in binding.value:
            fault = f"{binding.key} refers to another variable ({binding.value}); write its value"
        yield Variable(binding.key or "", binding.value or "", path, line), fault
