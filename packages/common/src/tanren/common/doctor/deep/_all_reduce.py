"""Proof of a collective: one process a GPU, started as torchrun does, whose sums must be exact."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tanren.common.doctor.deep._probe import ProbeResult

RANK = "tanren.common.doctor.deep._rank"
PROCESSES = 2  # without GPUs
POLL = 0.05  # s


def all_reduce(backend: str, megabytes: float) -> ProbeResult:
    """Sum over all visible GPUs ('nccl') or two processes ('gloo'). Raises RuntimeError where one of them fails."""
    processes = PROCESSES
    if backend == "nccl":
        import torch

        processes = torch.cuda.device_count()  # by NVML: this process needs no context of its own
        if processes == 0:
            raise RuntimeError("torch finds no GPU")
        if processes == 1:
            return ProbeResult("one GPU: nothing to prove")
    with tempfile.TemporaryDirectory(prefix="tanren-doctor-ranks-") as name:
        run_ranks(backend, processes, megabytes, Path(name))
        seconds = json.loads((Path(name) / "seconds.json").read_text(encoding="utf-8"))
    # Of N ranks each sends and receives 2 (N-1)/N of the bytes: github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md
    algorithm = megabytes * 1e6 / seconds
    bus = algorithm * 2 * (processes - 1) / processes
    found = (
        f"{processes} processes, sums exact; {megabytes:.0f} MB: {algorithm / 1e9:.3g} GB/s, bus {bus / 1e9:.3g} GB/s"
    )
    return ProbeResult(found, numbers={"processes": processes, "bus_bytes_per_s": bus, "seconds": seconds})


def run_ranks(backend: str, processes: int, megabytes: float, folder: Path, module: str = RANK) -> None:
    """Run one process of a module a rank to its end; where one fails, end the others, which would wait for it."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-P", "-m", module, backend, str(megabytes), str(folder)]
    with ExitStack() as stack:
        ranks = list[subprocess.Popen[bytes]]()
        for rank in range(processes):
            variables = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            output = stack.enter_context(_output(folder, rank).open("wb"))
            process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
            ranks.append(stack.enter_context(process))
            stack.callback(process.kill)
        while any(process.poll() is None for process in ranks):
            _raise_for_failed(ranks, folder)
            time.sleep(POLL)
        _raise_for_failed(ranks, folder)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _raise_for_failed(ranks: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Raise what the first rank that failed said last, with the first warning of NCCL; all is printed."""
    for rank, process in enumerate(ranks):
        if not process.poll():
            continue
        said = [_output(folder, rank).read_text(encoding="utf-8", errors="replace") for rank in range(len(ranks))]
        sys.stderr.writelines(said)
        last = next((line for line in reversed(said[rank].splitlines()) if line.strip()), "no word")
        warnings = [line for text in said for line in text.splitlines() if "NCCL WARN" in line]
        warned = f"; {warnings[0]}" if warnings else ""
        raise RuntimeError(f"rank {rank} of {len(ranks)} ended with code {process.returncode}: {last}{warned}")


def _output(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.txt"
