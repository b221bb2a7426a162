"""Can native code be compiled for this Python, as Triton and torch.compile do in the middle of a run?

Each stub is compiled as Triton compiles its launcher (triton/runtime/build.py: the same flags, the same places to
look), then imported in a child process: it answers with the version in the header it was compiled against.
"""

from __future__ import annotations

import importlib.machinery
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tanren.common.doctor._child import run
from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._subject import Subject

_MODULE = "tanren_stub"
_C_STUB = """
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *unused) { return PyUnicode_FromString(PY_VERSION); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tanren_stub", "", -1, methods};
PyMODINIT_FUNC PyInit_tanren_stub(void) { return PyModule_Create(&module); }
"""
_CUDA_STUB = """
#include <cuda.h>
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *unused) {
  int version = 0;
  if (cuDriverGetVersion(&version) != CUDA_SUCCESS) { PyErr_SetString(PyExc_RuntimeError, "cuDriverGetVersion"); return NULL; }
  return PyUnicode_FromFormat("%d.%d", version / 1000, version % 1000 / 10);
}
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tanren_stub", "", -1, methods};
PyMODINIT_FUNC PyInit_tanren_stub(void) { return PyModule_Create(&module); }
"""
_CXX_STUB = """
#include <string>
#include <vector>
extern "C" int answer() { std::vector<std::string> words{"forged"}; return static_cast<int>(words.back().size()); }
"""
_C_FLAGS = ("-O3", "-shared", "-fPIC", "-Wno-psabi")  # Triton's
_APPLE_FLAGS = ("-undefined", "dynamic_lookup")  # macOS's linker asks for every symbol unless told


def check_compilers(subject: Subject) -> Iterator[Finding]:
    """Yield headers, C compiler, a compiled extension, Triton's launcher (GPU) and the C++ compiler.

    A stub whose compiler or header is missing is not tried: that row has said it. Of an environment that this process
    does not run in only the header is looked for: its activation names the compilers.
    """
    header = subject.include / "Python.h"
    yield _judge(
        subject, header.is_file(), "Python.h", str(header) if header.is_file() else f"not in {subject.include}"
    )
    if not subject.runs:
        return
    cc = find_compiler(subject, "CC", ("gcc", "clang", "cc"))  # Triton's order: gcc before clang
    yield _compiler_finding(subject, "C compiler", "CC", cc)
    if cc and header.is_file():
        yield _c_extension(subject, cc)
        if subject.profile.cuda:
            yield _triton_launcher(subject, cc)
    cxx = find_compiler(subject, "CXX", ("g++", "clang++", "c++"))
    yield _compiler_finding(subject, "C++ compiler", "CXX", cxx)
    if cxx:
        failure, _ = _compile(subject, cxx, _CXX_STUB, "stub.cpp", ["-std=c++17"])
        yield _judge(subject, not failure, "C++ library", failure or "compiled and linked")


def find_compiler(subject: Subject, variable: str, names: Sequence[str]) -> str:
    """Return the compiler's path: the variable's, else the environment's, else the machine's; '' for none."""
    path = subject.variables.get("PATH", "")
    if named := subject.variables.get(variable):
        return shutil.which(named, path=path) or ""
    found = (shutil.which(name, path=place) for place in (str(subject.prefix / "bin"), path) for name in names)
    return next((compiler for compiler in found if compiler), "")


def _compiler_finding(subject: Subject, what: str, variable: str, compiler: str) -> Finding:
    named = subject.variables.get(variable)
    if not compiler:
        found = f"{variable} is '{named}', which is no program" if named else "none"
        return _judge(subject, False, what, found)
    foreign = subject.is_pixi and not subject.holds(Path(compiler))
    fix = f"unset {variable} and start with `{subject.run('doctor')}`" if named else f"{subject.reinstall}"
    found = f"{compiler}: not the environment's own" if foreign else compiler
    return judge(not foreign, what, found, _needed(subject), fix, otherwise=Verdict.WARNING)


def _c_extension(subject: Subject, cc: str) -> Finding:
    what = "extension in C"
    failure, version = _compile(subject, cc, _C_STUB, "stub.c", [f"-I{subject.include}"], load=True)
    if failure:
        return _judge(subject, False, what, failure)
    found = f"compiled, linked and imported (headers of Python {version})"
    same = version == subject.python
    return _judge(subject, same, what, found if same else f"Python.h is of Python {version}, this is {subject.python}")


def _triton_launcher(subject: Subject, cc: str) -> Finding:
    what = "Triton's launcher"
    triton = importlib.machinery.PathFinder.find_spec("triton", list(subject.search_path))
    if triton is None or triton.origin is None:
        return judge(False, what, "triton is not installed", _needed(subject), subject.run("sync --force"))
    include = Path(triton.origin).parent / "backends" / "nvidia" / "include"
    options = [f"-I{subject.include}", f"-I{include}"]
    with_driver = subject.wants_gpu and bool(subject.host.driver)
    if with_driver:
        options += ["-l:libcuda.so.1", *(f"-L{folder}" for folder in _libcuda_folders(subject))]
    failure, driver = _compile(subject, cc, _CUDA_STUB, "launcher.c", options, load=with_driver)
    done = f"runs; the driver speaks CUDA {driver}" if with_driver else "compiled; not run without a GPU"
    return _judge(subject, not failure, what, failure or done)


def _libcuda_folders(subject: Subject) -> list[str]:
    """The folders of libcuda.so.1, as Triton looks for them: ldconfig's cache, then LD_LIBRARY_PATH."""
    cache = run(["/sbin/ldconfig", "-p"])
    found = [str(Path(line.split()[-1]).parent) for line in cache.text.splitlines() if "libcuda.so.1" in line]
    named = subject.variables.get("TRITON_LIBCUDA_PATH")
    return [named] if named else found or [f for f in subject.variables.get("LD_LIBRARY_PATH", "").split(":") if f]


def _compile(
    subject: Subject, compiler: str, source: str, name: str, options: Sequence[str], *, load: bool = False
) -> tuple[str, str]:
    """Compile a stub to a shared object; with `load` import it and call answer(). Returns (failure or '', answer)."""
    with tempfile.TemporaryDirectory(prefix="tanren-doctor-") as folder:
        path = Path(folder, name)
        path.write_text(source, encoding="utf-8")
        built = Path(folder, _MODULE + sysconfig.get_config_var("EXT_SUFFIX"))
        apple = _APPLE_FLAGS if sys.platform == "darwin" else ()
        answer = run([compiler, path, *_C_FLAGS, *apple, "-o", built, *options], variables=subject.variables)
        if answer.code != 0:
            return f"does not compile: {_error_line(answer.text, folder)}", ""
        if not load:
            return "", ""
        answer = run(
            [sys.executable, "-c", f"import {_MODULE}; print({_MODULE}.answer())"],
            variables=subject.variables,
            folder=Path(folder),
        )
        return ("", answer.last_line) if answer.code == 0 else (f"cannot be imported: {answer.last_line}", "")


def _error_line(text: str, folder: str) -> str:
    """The compiler's first line that names the error, without the name of our temporary folder."""
    lines = [line.replace(f"{folder}/", "").strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in lines if re.search(r"error|cannot|undefined", line)), lines[-1] if lines else "no message"
    )


def _needed(subject: Subject) -> str:
    return "for Triton and torch.compile" if subject.profile.cuda else "for torch.compile"


def _judge(subject: Subject, good: bool, what: str, found: str) -> Finding:
    """Without pixi the compilers are the machine's, and only torch.compile asks for them: a warning."""
    if subject.is_pixi:
        return judge(good, what, found, _needed(subject), subject.reinstall)
    major_minor = ".".join(subject.python.split(".")[:2])
    fix = (
        f"install the machine's compilers and Python headers (Debian: apt-get install g++ python{major_minor}-dev), "
        "or run without torch.compile"
    )
    otherwise = Verdict.REFUSED if subject.profile.cuda else Verdict.WARNING
    return judge(good, what, found, _needed(subject), fix, otherwise=otherwise)
