"""Builds FlashAttention-2 for this machine's GPU: `pixi run -e ENV install-flash-attn [--arch 9.0] [--jobs N]`.

Optional: nothing needs it. It is published as source only, and its prebuilt wheels are tied to one torch and
one C++ ABI each; so it is built here, from the locked source (sha256), with the environment's own nvcc and
compiler, for one architecture. The result lies beside the lock in <prefix>/tanren-extra, where `sync` leaves
it alone, and is found through a .pth file while the locked torch is the one that it was built for.
FlashAttention-4 shares its import name (flash_attn.cute): the two are joined, and 4's part is the lock's.
Exit codes: 0, 1 the built kernel is wrong, 2 the user's mistake, 3 the build failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import index_settings
from stop import Stop

ROOT = Path(__file__).resolve().parent.parent
EXTRA = "tanren-extra"
POINTER = "tanren-extra.pth"
GIB_PER_JOB = 5  # nvcc's peak on one kernel file and one architecture, with a margin
# Which of its architectures serves a compute capability: code for 8.0 runs on all of 8.x, 10.0 on 10.3, 12.0 on 12.1.
SERVED_BY = {"8": "80", "9": "90", "10": "100", "12": "120"}

PROOF = """
import torch, flash_attn
from flash_attn import flash_attn_varlen_func
torch.manual_seed(0)
lengths = torch.tensor([0, 300, 1024], dtype=torch.int32, device="cuda")
q, k, v = (torch.randn(1024, h, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True) for h in (8, 2, 2))
out = flash_attn_varlen_func(q, k, v, lengths, lengths, 724, 724, causal=True)
grad = torch.randn_like(out)
got = [out, *torch.autograd.grad(out, (q, k, v), grad)]
parts = []
for a, b in ((0, 300), (300, 1024)):
    x, y, z = (t[a:b].double().transpose(0, 1) for t in (q, k, v))
    y, z = (t.repeat_interleave(4, 0) for t in (y, z))
    parts.append(torch.nn.functional.scaled_dot_product_attention(x, y, z, is_causal=True).transpose(0, 1))
ref = torch.cat(parts)
want = [ref, *torch.autograd.grad(ref, (q, k, v), grad.double())]
errors = [((g.double() - w.double()).norm() / w.double().norm()).item() for g, w in zip(got, want)]
print("relative error of output, dq, dk, dv:", " ".join(f"{e:.1e}" for e in errors))
raise SystemExit(max(errors) > 0.01)  # bfloat16 keeps 8 bits: 0.004 is rounding
"""


@dataclass(frozen=True)
class Built:
    """What lies in the side folder, and what it was built for."""

    version: str
    torch: str
    compute_capability: str

    def __str__(self) -> str:
        """For messages and the stamp."""
        return f"flash-attn {self.version} for compute capability {self.compute_capability}"


def say(message: str) -> None:
    """One line on standard error."""
    print(f"install-flash-attn: {message}", file=sys.stderr, flush=True)


def built(prefix: Path) -> Built | None:
    """What a complete build left, or None."""
    note = prefix / EXTRA / "built.json"
    return Built(**json.loads(note.read_text(encoding="utf-8"))) if note.exists() else None


def locked_torch(lock: str) -> str:
    """The version of torch in a lock's text."""
    from lock_format import parse

    return next(entry.version for entry in parse(lock) if entry.name == "torch")


def attach(prefix: Path, site_packages: Path, wanted: bool) -> None:
    """Makes the side folder importable, after the lock's packages, or no longer so."""
    pointer = site_packages / POINTER
    if wanted:
        pointer.write_text(f"{prefix / EXTRA}\n", encoding="utf-8")
    else:
        pointer.unlink(missing_ok=True)


def architecture(compute_capability: str) -> str:
    """FlashAttention-2's name for the architecture; refuses what it has no kernels for."""
    major = compute_capability.partition(".")[0]
    if not re.fullmatch(r"\d+\.\d+", compute_capability) or major not in SERVED_BY:
        known = ", ".join(f"{m}.x" for m in SERVED_BY)
        raise Stop(2, f"FlashAttention-2 has no kernels for compute capability {compute_capability!r}: it has {known}")
    return SERVED_BY[major]


def present_gpu() -> str:
    """The compute capability of this machine's GPU."""
    code = "import torch; print('%d.%d' % torch.cuda.get_device_capability())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=sys.prefix)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Stop(2, f"no GPU is found ({last}): name the architecture to build for, such as --arch 9.0")
    return done.stdout.strip()


def build_environment(prefix: Path, site_packages: Path, arch: str, jobs: int) -> dict[str, str]:
    """The variables of the build: own nvcc, one architecture, no prebuilt wheel, headers that fit torch."""
    # cuBLAS's, cuSPARSE's, ... headers come with the wheels that torch was built with, after the toolkit's own.
    headers = [str(folder) for folder in sorted(site_packages.glob("nvidia/*/include"))]
    own = [part for part in os.environ.get("CPATH", "").split(":") if part]
    return {
        **os.environ,
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",  # else its setup.py fetches a wheel that nobody pinned
        "FLASH_ATTN_CUDA_ARCHS": arch,
        "NVCC_THREADS": "1",
        "MAX_JOBS": str(jobs),
        "CPATH": ":".join(own + headers),
        "CUDA_HOME": os.environ.get("CUDA_HOME", str(prefix)),
    }


def default_jobs() -> int:
    """As many compilers as there are processors and memory for."""
    gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(gib // GIB_PER_JOB)))


def join_with_flash_attention_4(folder: Path) -> None:
    """Lets `flash_attn.cute` be the lock's FlashAttention-4: the source of 2 carries an older copy."""
    shutil.rmtree(folder / "flash_attn" / "cute", ignore_errors=True)
    start = folder / "flash_attn" / "__init__.py"
    join = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
    start.write_text(join + start.read_text(encoding="utf-8"), encoding="utf-8")


def build(prefix: Path, site_packages: Path, compute_capability: str, jobs: int, prove: bool) -> None:
    """Builds aside, proves it against a reference, then puts it in place."""
    lock = ROOT / "envs" / "flash-attn.lock"
    version = re.findall(r"^flash-attn==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)[0]
    settings = index_settings.read(os.environ)
    aside, place = prefix / f"{EXTRA}.partial", prefix / EXTRA
    shutil.rmtree(aside, ignore_errors=True)
    environment = build_environment(prefix, site_packages, architecture(compute_capability), jobs)
    nvcc = Path(environment["CUDA_HOME"], "bin", "nvcc")
    if not nvcc.exists():
        raise Stop(2, f"{nvcc} is missing: start it in a GPU environment, as `pixi run -e b300 install-flash-attn`")
    say(f"building flash-attn {version} for compute capability {compute_capability} with {jobs} jobs: 5 to 60 minutes")
    start = time.monotonic()
    command = [shutil.which("uv", path=f"{prefix}/bin:{os.environ.get('PATH', '')}") or "uv", "pip", "install"]
    command += ["--python", sys.executable, "--target", str(aside), "--no-deps", "--no-build-isolation"]
    command += ["--require-hashes", "--no-cache", *settings.flags, "-r", str(lock)]
    done = subprocess.run(command, env=settings.environment(environment), check=False)
    if done.returncode:
        shutil.rmtree(aside, ignore_errors=True)
        raise Stop(3, "the build failed (its words are above); fewer --jobs need less memory. Nothing was changed")
    join_with_flash_attention_4(aside)
    found = {**os.environ, "PYTHONPATH": str(aside)}
    code = PROOF if prove else "import flash_attn"
    if subprocess.run([sys.executable, "-c", code], env=found, cwd=prefix, check=False).returncode:
        what = "differs from the reference or cannot be imported" if prove else "cannot be imported"
        raise Stop(1, f"what was built {what} (above): it stays in {aside} and is not used")
    note = asdict(Built(version, metadata.version("torch"), compute_capability))
    (aside / "built.json").write_text(json.dumps(note), encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    attach(prefix, site_packages, wanted=True)
    say(f"done in {time.monotonic() - start:.0f} s: {place}")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", help="compute capability, such as 9.0 (default: the present GPU's)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="compilers at a time (default %(default)s)")
    arguments = parser.parse_args()
    prefix = Path(sys.prefix)
    site_packages = Path(sysconfig.get_path("purelib"))
    try:
        build(prefix, site_packages, arguments.arch or present_gpu(), max(1, arguments.jobs), prove=not arguments.arch)
    except Stop as stop:
        say(str(stop))
        return stop.code
    except KeyboardInterrupt:
        say("interrupted; nothing was changed")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
