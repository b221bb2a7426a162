"""Are torch and what was compiled against it of one build? Read from files and names, without importing any of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._installed import Installed
from tanren.common.doctor._subject import Subject

# What a wheel's version says after the +: 2.11.0+cu129; 2.8.3+cu12torch2.8cxx11abiTRUE; 1.5.0+pt26cu129.
_CUDA = re.compile(r"^(?:cu(\d{3})|(cpu))\b")
_TORCH = re.compile(r"(?:torch|pt)(\d)\.?(\d+)")


def check_builds(subject: Subject) -> Iterator[Finding]:
    """Yield which CUDA torch was built for, and each package that was compiled for another CUDA or another torch."""
    torch = next((one for one in subject.distributions if one.name == "torch"), None)
    if torch is None:
        return  # its row among the packages has said it
    cuda = torch_cuda(subject.site_packages)
    yield _torch(subject, cuda)
    if cuda is None:
        return
    fix = subject.run("sync --force")
    for one in subject.distributions:
        local = one.version.partition("+")[2]
        if (built := _CUDA.match(local)) and one.name != "torch":
            found = "none (a CPU build)" if built[2] else cuda_version(f"cu{built[1]}")
            if found != cuda and (cuda or not built[2]):
                what = f"{one.name}'s CUDA"
                yield Finding(what, f"{found} ({one.version})", f"torch's: {cuda or 'none'}", Verdict.REFUSED, fix)
        if (against := _TORCH.search(local)) and not _is_of(torch, against[1], against[2]):
            found = f"built for torch {against[1]}.{against[2]} ({one.version})"
            yield Finding(f"{one.name}'s torch", found, f"built for torch {torch.version}", Verdict.REFUSED, fix)


def torch_cuda(site_packages: tuple[Path, ...]) -> str | None:
    """Return the CUDA version that torch was built for, '' for a CPU build; None where its version.py does not say."""
    for folder in site_packages:
        try:
            tree = ast.parse((folder / "torch" / "version.py").read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for line in tree.body:
            if isinstance(line, ast.AnnAssign | ast.Assign) and isinstance(line.value, ast.Constant):
                targets = line.targets if isinstance(line, ast.Assign) else [line.target]
                if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
                    return str(line.value.value or "")
    return None


def cuda_version(wheels: str) -> str:
    """Return the CUDA version of a build's name: 'cu129' -> '12.9'."""
    digits = wheels.removeprefix("cu")
    return f"{digits[:-1]}.{digits[-1]}"


def _torch(subject: Subject, cuda: str | None) -> Finding:
    what, wanted = "torch's CUDA", subject.profile.cuda
    needed = cuda_version(wanted.wheels) if wanted else "any or none"
    fix = subject.run("sync --force")
    if cuda is None:
        return Finding(what, "torch/version.py does not say", needed, Verdict.REFUSED, fix)
    return judge(wanted is None or cuda == needed, what, cuda or "none", needed, fix)


def _is_of(torch: Installed, major: str, minor: str) -> bool:
    return torch.version.split(".")[:2] == [major, minor]
