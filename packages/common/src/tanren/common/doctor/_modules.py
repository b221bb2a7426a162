"""Will Python import the environment's packages, and not others of the same name?"""

from __future__ import annotations

import importlib.machinery
from collections.abc import Iterator
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._subject import Subject

KEY_MODULES = ("torch", "triton", "transformers", "trl", "peft", "accelerate", "vllm", "numpy")
"""Another copy of one of these changes results or fails late."""


def check_modules(subject: Subject) -> Iterator[Finding]:
    """Yield whether the user's own folder is left out, and whether the key modules are found once."""
    fix = f"export PYTHONNOUSERSITE=1 (pixi sets it: start with `{subject.run('doctor')}`)"
    off = not subject.user_site or bool(subject.variables.get("PYTHONNOUSERSITE"))
    yield judge(
        off, "user's site-packages", "not searched" if off else f"searched: {subject.user_site}", "not searched", fix
    )
    found = {name: _places(subject, name) for name in KEY_MODULES}
    faults = [fault for name, places in found.items() if (fault := _fault(subject, name, places))]
    yield from faults
    if not faults:
        count = sum(map(bool, found.values()))
        yield Finding("module search", f"{count} key modules, each found once", "each once", Verdict.OK)


def _fault(subject: Subject, name: str, places: list[Path]) -> Finding | None:
    if not places:
        return None
    what, needed = f"module {name}", f"only the one in {subject.prefix}"
    if not subject.holds(places[0]):
        fix = f"take {places[0].parent} out of PYTHONPATH, or the module out of it"
        return Finding(what, f"{places[0]} comes first", needed, Verdict.REFUSED, fix)
    if len(places) > 1:
        fix = f"take {places[1].parent} out of PYTHONPATH, or the module out of it"
        return Finding(what, " and ".join(map(str, places)), needed, Verdict.WARNING, fix)
    return None


def _places(subject: Subject, name: str) -> list[Path]:
    """Where a module is found, first come first; folders without code (namespaces) give way and do not count."""
    specs = (importlib.machinery.PathFinder.find_spec(name, [entry]) for entry in dict.fromkeys(subject.search_path))
    places = (_folder(Path(spec.origin)) for spec in specs if spec and spec.origin)
    return list(dict.fromkeys(place.parent.resolve() / place.name for place in places))


def _folder(origin: Path) -> Path:
    return origin.parent if origin.name == "__init__.py" else origin
