"""Would another copy of one of CUDA's libraries be loaded in place of, or beside, the ones that torch was built with?

What the loader does, seen with torch 2.11.0+cu130 by /proc/self/maps: torch's libraries name the wheels' folders by
RPATH, which comes before LD_LIBRARY_PATH; so they are the wheels'. But libcudnn.so.9 itself opens its parts
(libcudnn_graph.so.9, ...) by RUNPATH, which comes after it: they would be of the other copy, and cuDNN refuses parts of
another version. And whoever loads one by its name alone (an extension before torch, a compiler in a run) gets the other
copy, so that one process has two. What ldconfig knows comes last, and does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._subject import Subject

_FAMILIES = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|nccl|nvrtc|nvJitLink|cusparse|cusolver|cufft|curand|cupti)\.so"
)
_DRIVER = ("libcuda.so", "libcuda.so.1")
_SHOWN = 3  # names of a folder: more would hide what is to be done


def check_libraries(subject: Subject) -> Iterator[Finding]:
    """Yield what in LD_LIBRARY_PATH comes between a program and the wheels' libraries; nothing for the CPU environment."""
    if subject.profile.cuda is None:
        return
    own = wheel_libraries(subject.site_packages)
    folders = [Path(entry) for entry in subject.variables.get("LD_LIBRARY_PATH", "").split(":") if entry]
    faults = [fault for folder in dict.fromkeys(folders) for fault in _folder(subject, folder, own)]
    yield from faults
    if not faults:
        shown = f"{len(folders)} folders, none with another copy" if folders else "not set"
        yield Finding("LD_LIBRARY_PATH", shown, "no other copy of a CUDA library", Verdict.OK)


def wheel_libraries(site_packages: tuple[Path, ...]) -> dict[str, Path]:
    """Return the libraries that the wheels brought, by file name."""
    files = (file for folder in site_packages for file in sorted(folder.glob("nvidia/*/lib/lib*.so*")))
    return {file.name: file for file in files}


def _folder(subject: Subject, folder: Path, own: dict[str, Path]) -> Iterator[Finding]:
    try:
        files = {file.name: file for file in sorted(folder.iterdir()) if ".so" in file.name}
    except OSError:  # not there, or closed to this user: the loader passes it by too
        return
    yield from _driver(subject, folder, files)
    second = [
        name
        for name, file in files.items()
        if _FAMILIES.match(name) and name in own and not _same_file(file, own[name])
    ]
    if not second:
        return
    parts = [name for name in second if name.startswith("libcudnn")]
    named = parts or second
    more = f" and {len(second) - _SHOWN} more" if len(second) > _SHOWN else ""
    found = f"{folder} has {', '.join([*named, *(n for n in second if n not in named)][:_SHOWN])}{more}, as has {own[named[0]].parent}"
    needed = "one copy, the wheels'"
    fix = f"take {folder} out of LD_LIBRARY_PATH (the environment needs none of it)"
    verdict = Verdict.REFUSED if parts else Verdict.WARNING
    yield Finding("second CUDA library" if not parts else "second cuDNN", found, needed, verdict, fix)


def _driver(subject: Subject, folder: Path, files: dict[str, Path]) -> Iterator[Finding]:
    """libcuda is the driver's: a stub is for linking alone, and another version than the kernel driver's may not speak to it."""
    there = [files[name] for name in _DRIVER if name in files]
    if not there or folder.resolve().is_relative_to((subject.prefix / "cuda-compat").resolve()):
        return  # activation puts cuda-compat there where it is needed
    what, fix = "libcuda.so.1", f"take {folder} out of LD_LIBRARY_PATH: the driver's own is found without it"
    if "stubs" in folder.parts:
        found = f"{there[0]} is a stub: every call of CUDA fails"
        yield Finding(what, found, "the driver's own", Verdict.REFUSED, fix)
        return
    version = re.search(r"\.so\.(\d+\.\d+[\d.]*)$", str(there[-1].resolve()))
    driver = subject.host.driver
    if version and driver and version[1] != driver:
        found = f"{there[-1]} is of driver {version[1]}, and the kernel's is {driver}"
        yield Finding(what, found, "the driver's own", Verdict.WARNING, fix)


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)
