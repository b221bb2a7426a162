"""Is the CUDA toolkit that will be used the environment's own, of the right version, and does it know the GPUs?

Triton asks for its assemblers through TRITON_PTXAS_PATH and TRITON_PTXAS_BLACKWELL_PATH (triton/knobs.py, 3.6); where
such a path cannot be executed it takes those in its wheel without a word: 12.8, and 12.9 for Blackwell.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tanren.common.doctor._child import Answer, run
from tanren.common.doctor._finding import Finding, judge
from tanren.common.doctor._subject import Subject
from tanren.common.environments import sm_name

TRITON_VARIABLES = ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH")


def check_toolkit(subject: Subject) -> Iterator[Finding]:
    """Yield nvcc, ptxas and its architectures, and the variables that lead to them; nothing for the CPU environment.

    The variables only where this process runs in the environment: its activation sets them.
    """
    cuda = subject.profile.cuda
    if cuda is None:
        return
    for tool in ("nvcc", "ptxas"):
        yield _version(subject, tool, cuda.toolkit)
    yield _architectures(subject)
    if subject.runs:
        yield _cuda_home(subject)
        for variable in TRITON_VARIABLES:
            yield _triton_path(subject, variable)


def known_architectures(help_text: str) -> set[str]:
    """Return the architectures that `ptxas --help` lists: {'sm_75', 'sm_90', 'sm_90a', ...}."""
    return set(re.findall(r"\bsm_\d+[a-z]?\b", help_text))


def _cuda_home(subject: Subject) -> Finding:
    found = subject.variables.get("CUDA_HOME", "")
    good = bool(found) and Path(found).is_dir() and subject.holds(Path(found))
    needed = f"a folder of {subject.prefix}"
    return judge(good, "CUDA_HOME", found or "not set", needed, _activate(subject))


def _version(subject: Subject, tool: str, needed: str) -> Finding:
    path = subject.prefix / "bin" / tool
    answer = run([path, "--version"])
    match = re.search(r"release (\d+\.\d+)", answer.text)
    found = match[1] if answer.code == 0 and match else _failure(path, answer)
    return judge(found == needed, tool, found, needed, subject.reinstall)


def _triton_path(subject: Subject, variable: str) -> Finding:
    needed = str(subject.prefix / "bin" / "ptxas")
    named = subject.variables.get(variable, "")
    if not named:
        return judge(False, variable, "not set: Triton takes its own", needed, _activate(subject))
    answer = run([named, "--version"])
    found, good = named, False
    if answer.code != 0:
        found = f"{_failure(Path(named), answer)}: Triton takes its own without a word"
    elif not subject.holds(Path(named)):
        found = f"{named}: not the environment's own"
    else:
        good = True
    return judge(good, variable, found, needed, _activate(subject))


def _architectures(subject: Subject) -> Finding:
    path = subject.prefix / "bin" / "ptxas"
    known = known_architectures(run([path, "--help"]).text)
    promised = [sm_name(capability) for capability in subject.profile.compute_capabilities]
    missing = [name for name in promised if name not in known]
    found = f"{len(promised) - len(missing)} of {len(promised)}" if known else f"{path} lists none"
    found += f"; it does not know {', '.join(missing)}" if known and missing else ""
    return judge(not missing, "ptxas architectures", found, ", ".join(promised), subject.reinstall)


def _failure(path: Path, answer: Answer) -> str:
    if not path.exists():
        return f"{path}: no such file"
    if not os.access(path, os.X_OK):
        return f"{path}: not executable"
    return f"{path} --version: {answer.last_line or f'exit code {answer.code}'}"


def _activate(subject: Subject) -> str:
    return f"envs/activate.sh sets it: start with `{subject.run('doctor')}`, and set it nowhere else"
