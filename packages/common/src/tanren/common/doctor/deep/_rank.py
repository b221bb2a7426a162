"""One process of the collective that is proven: `python -m ... BACKEND MEGABYTES FOLDER`, with torchrun's variables."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

REPEATS = 10
TIMEOUT = timedelta(seconds=120)
PERIOD = 1024  # of the values: whole numbers, whose sums float32 holds exactly


def main(backend: str, megabytes: float, folder: Path) -> None:
    """Sum with all other ranks, check every element, and let rank 0 write the median seconds of a sum."""
    import torch
    from torch import distributed

    from tanren.common.doctor.deep._measure import synchronize

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=TIMEOUT, device_id=device if backend == "nccl" else None)
    pattern = (torch.arange(int(megabytes * 1e6 / 4), device=device) % PERIOD).float()
    values = pattern + rank
    distributed.all_reduce(values)
    expected = pattern * ranks + ranks * (ranks - 1) / 2
    wrong = int((values != expected).sum())
    if wrong:
        raise RuntimeError(f"rank {rank}: {wrong} of {values.numel()} sums over {ranks} ranks are wrong")
    values.zero_()  # so that sums of sums stay numbers
    seconds = []
    for _ in range(REPEATS):
        distributed.barrier()
        synchronize(str(device))
        begun = time.perf_counter()
        distributed.all_reduce(values)
        synchronize(str(device))
        seconds.append(time.perf_counter() - begun)
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(sorted(seconds)[REPEATS // 2]), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
