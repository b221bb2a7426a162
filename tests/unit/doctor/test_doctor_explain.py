"""The command tanren doctor explain: known failures are recognised from messages that users really met."""

from __future__ import annotations

import io
import json
import re
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.doctor import LogReading, explain_log, read_log
from tanren.common.doctor._explain import BLOCK, LONGEST
from tanren.common.doctor._known_failures import KNOWN_FAILURES

TANREN = "tanren.common.cli"

# As the programs print them; paths and long lists cut.
MESSAGES = [
    ("python-headers", "/tmp/tmps1rkq3y3/main.c:5:10: fatal error: Python.h: No such file or directory"),
    ("python-headers", "C:/tmp/cuda_utils.c:13: error: include file 'Python.h' not found"),
    ("ptxas-architecture", "ptxas fatal   : Value 'sm_103a' is not defined for option 'gpu-name'"),
    ("cuda-headers", "main.cpp:2:10: fatal error: cuda.h: No such file or directory"),
    ("cuda-headers", "ext.cpp:4:10: fatal error: cuda_runtime_api.h: No such file or directory"),
    (
        "no-c-compiler",
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl.",
    ),
    (
        "triton-compiler",
        "subprocess.CalledProcessError: Command '['/usr/bin/gcc', '/tmp/tmpwk/cuda_utils.c', '-O3', '-shared', '-fPIC', "
        "'-o', '/tmp/tmpwk/cuda_utils.cpython-312-x86_64-linux-gnu.so', '-lcuda']' returned non-zero exit status 1.",
    ),
    (
        "no-triton",
        "torch._inductor.exc.TritonMissing: Cannot find a working triton installation. Either the package is not installed "
        "or it is too old.",
    ),
    ("cpu-torch", "ImportError: libtorch_cuda.so: cannot open shared object file: No such file or directory"),
    ("cpu-torch", "ImportError: libtorch_cuda_cu.so: cannot open shared object file: No such file or directory"),
    ("torch-without-cuda", "AssertionError: Torch not compiled with CUDA enabled"),
    (
        "flash-attn-symbol",
        "ImportError: /opt/lib/python3.12/site-packages/flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so: undefined symbol: "
        "_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    ),
    ("extension-symbol", "ImportError: /v/vllm/_C.abi3.so: undefined symbol: _ZN3c1013MessageLoggerC1EPKciib"),
    ("cuda-runtime-library", "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory"),
    ("cuda-runtime-library", "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory"),
    (
        "bitsandbytes-cuda",
        "CUDA Setup failed despite CUDA being available. Please run the following command to get more information:",
    ),
    (
        "bitsandbytes-cuda",
        "Could not find the bitsandbytes CUDA binary at PosixPath('/v/bitsandbytes/libbitsandbytes_cuda128.so')",
    ),
    ("bitsandbytes-cuda", "CUDA SETUP: Required library version not found: libbitsandbytes_cuda124.so. Maybe you need"),
    (
        "flashinfer-build",
        "subprocess.CalledProcessError: Command '['ninja', '-v', '-C', '/root/.cache/flashinfer/0.6.13/90a/cached_ops/sampling', "
        "'-f', '/root/.cache/flashinfer/0.6.13/90a/cached_ops/sampling/build.ninja']' returned non-zero exit status 1.",
    ),
    ("glibc", "python: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by /v/_C.abi3.so)"),
    ("no-kernel-image", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    (
        "no-kernel-image",
        "NVIDIA GeForce RTX 5080 with CUDA capability sm_120 is not compatible with the current PyTorch installation.",
    ),
    (
        "driver-combination",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
        "NumCudaDevices() that might have already set an error? Error 803: system has unsupported display driver / cuda "
        "driver combination",
    ),
    (
        "driver-too-old",
        "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 12080). Please update",
    ),
    ("driver-too-old", "RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
    ("no-driver", "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    ("no-driver", "RuntimeError: No CUDA GPUs are available"),
    ("unsloth-no-gpu", "NotImplementedError: Unsloth cannot find any torch accelerator? You need a GPU."),
    (
        "vllm-wake-up",
        "(EngineCore pid=9) RuntimeError: CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62",
    ),
    (
        "vllm-wake-up",
        '  File "/v/vllm/v1/worker/gpu_worker.py", line 140, in wake_up\n    allocator.wake_up()\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has a total capacity of 79.11 GiB",
    ),
    (
        "vllm-kv-cache",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing",
    ),
    (
        "vllm-kv-cache",
        "ValueError: To serve at least one request with the models's max seq len (32768), (8.00 GiB KV cache is needed, which "
        "is larger than the available KV cache memory (4.46 GiB).",
    ),
    (
        "vllm-memory-taken",
        "ValueError: Free memory on device cuda:0 (19.77/22.05 GiB) on startup is less than desired GPU memory utilization "
        "(0.9, 19.84 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    ),
    (
        "gpu-memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of",
    ),
    ("gpu-memory", "RuntimeError: CUDA error: out of memory"),
    (
        "nccl-shared-memory",
        "gpu2:2143:2561 [1] include/shm.h:28 NCCL WARN Call to posix_fallocate failed : No space left on device",
    ),
    (
        "nccl-shared-memory",
        "ubuntu:9621:9691 [6] misc/shmutils.cc:71 NCCL WARN Error: failed to extend /dev/shm/nccl-fjwOOB to 5967876 bytes",
    ),
    (
        "bus-error",
        "RuntimeError: DataLoader worker (pid 11011) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
    ),
    (
        "bus-error",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    ),
    ("bus-error", "Bus error (core dumped)"),
    ("disk-full", "OSError: [Errno 28] No space left on device: '/root/.cache/huggingface/hub/tmp'"),
    ("killed", "Killed"),
    ("killed", "  6%|██      | 3787/62565 [04:47<1:10:53, 13.82it/s]Killed"),
    ("killed", "./train.sh: line 3: 12345 Killed                  python train.py"),
    ("killed", "Memory cgroup out of memory: Killed process 23793 (python) total-vm:2623712kB, anon-rss:506500kB"),
    (
        "killed",
        "E0813 06:19:49.809000 161210 torch/distributed/elastic/api.py:869] failed (exitcode: -9) local_rank: 2 (pid: 1)",
    ),
    ("killed", "Command exited with exit status 137"),
    (
        "nccl-time-out",
        "[rank0]:[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) ran for 600060",
    ),
    ("nccl-system-error", "RuntimeError: NCCL error in ProcessGroupNCCL.cpp:290, unhandled system error"),
    ("nccl-system-error", "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"),
    (
        "nccl-system-error",
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
    ),
    (
        "spawn-guard",
        "RuntimeError: \n        An attempt has been made to start a new process before the\n"
        "        current process has finished its bootstrapping phase.",
    ),
    (
        "cuda-after-fork",
        "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you",
    ),
    ("device-assert", "torch.AcceleratorError: CUDA error: device-side assert triggered"),
    (
        "flash-attention-missing",
        "ImportError: FlashAttention3 has been toggled on, but it cannot be used due to the following error: the package "
        "flash_attn_3 seems to be not installed.",
    ),
    ("flash-attention-missing", "the package flash_attn seems to be not installed. Please refer to the documentation"),
    (
        "flash-attention-missing",
        "ImportError: FlashAttention3 has been toggled on, but it cannot be used due to the following error: the package for "
        "FlashAttention3 doesn't seem to be installed.",
    ),
    (
        "deepspeed-batch",
        "AssertionError: Check batch related parameters. train_batch_size is not equal to micro_batch_per_gpu * "
        "gradient_acc_step * world_size 256 != 2 * 18 * 7",
    ),
    (
        "chat-template-name",
        "chat_template.str-enum[ChatTemplate]\n  Input should be 'alpaca', 'chatml', 'gemma', 'llama3', 'qwen_25', 'qwen3' or "
        "'command_a' [type=enum, input_value='qwen3_instruct', input_type=str]",
    ),
    (
        "generations-per-prompt",
        "ValueError: The global train batch size (7 x 1) must be evenly divisible by the number of generations per prompt (8). "
        "Given the current train batch size, the valid values for the number of generations are: [7].",
    ),
    ("generations-per-prompt", "ValueError: generation_batch_size (12) must be divisible by num_generations (8)."),
    (
        "hub-refused",
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66f4b037)\n\n"
        "Cannot access gated repo for url https://huggingface.co/google/gemma-2-2b-it/resolve/main/config.json.",
    ),
    ("hub-refused", "OSError: You are trying to access a gated repo."),
    (
        "hub-refused",
        "requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/a/b/resolve/main/x",
    ),
    (
        "hub-offline",
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and outgoing "
        "traffic has been disabled. To enable hf.co look-ups and downloads online, set 'local_files_only' to False.",
    ),
    (
        "hub-offline",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the",
    ),
]

INNOCENT = [
    "step 40/1500  loss 0.713  error 0.01  grad_norm 0.44  12,431 tokens/s",
    "epoch 1: 0 errors, 3 warnings; exit code 0",
    "NCCL INFO NET/Plugin: Plugin load returned 2 : libnccl-net.so: cannot open shared object file: No such file",
    "frame #1: c10d::ProcessGroupNCCL::watchdogHandler() + 0x233 (0x15 in /v/torch/lib/libtorch_cuda.so)",
    "INFO Loading bitsandbytes native library from: /v/bitsandbytes/libbitsandbytes_cuda128.so",
    "vLLM: sleeping, then wake_up took 0.4 s; 12 GiB free",
    "INFO Available KV cache memory: 64.27 GiB",
    "cumem_allocator.cpp compiled; Python.h found in /usr/include/python3.12",
    '{"text": "Three people were Killed in the film; the bus was late"}',
    "Unsloth 2025.12.7: Fast Qwen3 patching. Transformers: 4.56.2.",
    "Using chat_template 'chatml' for 2,000 rows",
    "huggingface_hub 1.3.0, driver 580.95.05, CUDA 13.0, glibc 2.39 (GLIBC_2.34 is the least)",
    "flash_attn_3 not asked for; attention: sdpa",
    "num_generations=8, generation_batch_size=64: divisible",
]


def read(text: str | bytes) -> LogReading:
    """Read a log that is given as text."""
    return read_log(io.BytesIO(text.encode() if isinstance(text, str) else text))


@pytest.mark.parametrize(("failure", "message"), MESSAGES)
def test_a_real_message_is_recognised_alone(failure: str, message: str) -> None:
    reading = read(f"Traceback (most recent call last):\n{message}\n")
    assert [one.id for one in reading.explanations] == [failure]
    assert "{" not in reading.explanations[0].cause + reading.explanations[0].fix
    assert reading.last_error is None


def test_every_known_failure_has_a_real_message_and_a_usable_entry() -> None:
    assert {failure.id for failure in KNOWN_FAILURES} == {failure for failure, _ in MESSAGES}
    for failure in KNOWN_FAILURES:
        groups = set(re.compile(failure.pattern).groupindex)
        asked = {
            name for text in (failure.cause, failure.fix) for _, name, _, _ in string.Formatter().parse(text) if name
        }
        assert asked == groups, failure.id
        assert failure.marks
        assert all(failure.marks), failure.id
        assert failure.what
        assert not failure.source or failure.source.startswith("https://")


@pytest.mark.parametrize("line", INNOCENT)
def test_an_innocent_line_is_not_taken_for_a_failure(line: str) -> None:
    assert read(line + "\n").explanations == []


def test_what_the_message_says_stands_in_cause_and_fix() -> None:
    [ptxas] = read("ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'").explanations
    assert "sm_121a" in ptxas.cause
    assert "sm_121a" in ptxas.fix
    [batch] = read(dict(MESSAGES)["deepspeed-batch"]).explanations
    assert "train_batch_size 256 is not micro batch 2 x accumulation 18 x ranks 7" in batch.cause


def test_failures_come_in_the_order_of_their_first_lines_and_are_counted() -> None:
    lines = [
        "start",
        "fatal error: Python.h: No such file or directory",
        "RuntimeError: CUDA error: out of memory",
        "fatal error: Python.h: No such file or directory",
        "[rank1] RuntimeError: CUDA error: out of memory",
        "[rank2] RuntimeError: CUDA error: out of memory",
        "Killed",
    ]
    reading = read("\n".join(lines))
    assert [(one.id, one.line, one.count) for one in reading.explanations] == [
        ("python-headers", 2, 2),
        ("gpu-memory", 3, 3),
        ("killed", 7, 1),
    ]
    assert reading.lines == 7


def test_a_wake_up_long_ago_does_not_explain_a_later_lack_of_memory() -> None:
    between = "step\n" * 200
    [one] = read(
        f"  File gpu_worker.py, line 140, in wake_up\n{between}RuntimeError: CUDA error: out of memory"
    ).explanations
    assert (one.id, one.line) == ("gpu-memory", 202)


def test_colours_and_progress_bars_do_not_hide_a_message() -> None:
    bar = "\r".join(f"\x1b[32m {percent}%|██\x1b[0m" for percent in range(1000))
    text = f"one\n{bar}\r\x1b[1;31mRuntimeError\x1b[0m: CUDA \x1b[31merror\x1b[0m: out of memory\r\nthree\n"
    reading = read(text)
    [one] = reading.explanations
    assert (one.id, one.line, one.text) == ("gpu-memory", 2, "RuntimeError: CUDA error: out of memory")
    assert reading.lines == 3


def test_bytes_that_are_no_text_are_replaced_and_printed_harmlessly() -> None:
    [one] = read(b"\x00\xff\xfe\x07junk\nx\x9c\x1b]0;title\x07 No space left on device \x08\xff\n").explanations
    assert one.line == 2
    assert one.text.isprintable()


@given(st.binary(max_size=2000))
def test_no_bytes_at_all_make_it_fail(data: bytes) -> None:
    assert read(data).lines == len(data.split(b"\n")) - (data.endswith(b"\n") or not data)


def test_a_line_without_end_costs_no_memory_and_hides_nothing_after_it() -> None:
    huge = b"x" * (5 * BLOCK + 17)
    reading = read(
        b"CUDA error: out of memory " + huge + b"\nKilled\n" + b"y" * LONGEST + b" No space left on device\n"
    )
    assert [(one.id, one.line) for one in reading.explanations] == [("gpu-memory", 1), ("killed", 2)]
    assert len(reading.explanations[0].text) <= 200
    assert reading.lines == 3


def test_the_number_of_a_line_is_right_across_blocks() -> None:
    filler = b"step 1 loss 0.5\rstep 2 loss 0.4\n" * (3 * BLOCK // 32)
    [one] = read(filler + b"Killed\n").explanations
    assert one.line == filler.count(b"\n") + 1


def test_a_large_log_is_read_in_seconds(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    line = b"2026-11-20 22:32:00 INFO step 40/1500 loss 0.713 error 0.01 grad_norm 0.44 tokens/s 12431\n"
    with log.open("wb") as file:
        for _ in range(50):
            file.write(line * (BLOCK // len(line)))
        file.write(b"Killed\n")
    begun = time.perf_counter()
    with log.open("rb") as file:
        assert read_log(file).explanations[0].id == "killed"
    assert time.perf_counter() - begun < 15  # 50 MB: 1.1 s


def test_no_pattern_is_slow_on_a_long_line() -> None:
    fillings = ("a", " ", "'", "x.so", "NCCL ", "1 ", "a/", "'gcc', ")
    begun = time.perf_counter()
    for failure in KNOWN_FAILURES:
        for filling in fillings:
            text = filling * (LONGEST // len(filling))
            for line in (failure.marks[0] + text, text[: LONGEST // 2] + failure.marks[0]):
                re.search(failure.pattern, line)
    assert time.perf_counter() - begun < 10  # 0.02 s


def test_an_unknown_failure_is_said_with_the_last_line_that_looks_like_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    log.write_text("start\nValueError: the first\n  in between\nValueError: a row is no row\nbye\n", encoding="utf-8")
    assert explain_log(str(log), as_json=False) == 1
    out = capsys.readouterr().out
    assert "no known failure in 5 lines" in out
    assert "like an error, 4: ValueError: a row is no row" in out
    assert "fix: " in out


@pytest.mark.parametrize("text", ["", "all is well\n"])
def test_a_log_without_an_error_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    log = tmp_path / "run.log"
    log.write_text(text, encoding="utf-8")
    assert explain_log(str(log), as_json=False) == 1
    out = capsys.readouterr().out
    assert f"no known failure in {text.count(chr(10))} lines" in out
    assert "standard error (2>&1)" in out


def test_the_rows_name_cause_and_fix_and_only_the_first_of_several_is_the_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    log.write_text("RuntimeError: No CUDA GPUs are available\nKilled\nKilled\n", encoding="utf-8")
    assert explain_log(str(log), as_json=False) == 0
    out = capsys.readouterr().out
    assert out.count("likely root") == 1
    assert out.startswith("no NVIDIA driver, or no GPU is visible (the likely root")
    assert "  line 1: RuntimeError: No CUDA GPUs are available\n  cause: " in out
    assert "  line 2, 2 times: Killed\n" in out
    assert out.count("  fix: ") == 2
    log.write_text("Killed\n", encoding="utf-8")
    explain_log(str(log), as_json=False)
    assert "likely root" not in capsys.readouterr().out


def test_the_command_answers_at_once_with_json_alone_on_standard_output(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "run.log"
    log.write_text("RuntimeError: CUDA error: out of memory\nKilled\n", encoding="utf-8")
    done = command(TANREN, "doctor", "explain", str(log), "--json")
    answer = json.loads(done.out)
    assert done.code == 0
    assert [one["id"] for one in answer["explanations"]] == ["gpu-memory", "killed"]
    assert set(answer["explanations"][0]) == {"id", "what", "line", "text", "count", "cause", "fix", "source"}
    assert (answer["log"], answer["lines"], answer["last_error"]) == (str(log), 2, None)
    assert answer["likely_root"] == "gpu-memory"
    assert "fix: " in done.err
    assert done.heavy == ""
    log.write_text("ValueError: no\n", encoding="utf-8")
    done = command(TANREN, "doctor", "explain", "--json", str(log))
    assert (done.code, json.loads(done.out)["last_error"]) == (1, {"number": 1, "text": "ValueError: no"})


@pytest.mark.parametrize(("name", "reason"), [("none.log", "No such file or directory"), (".", "Is a directory")])
def test_a_log_that_cannot_be_read_is_the_users_mistake(
    command: Callable[..., Any], tmp_path: Path, name: str, reason: str
) -> None:
    done = command(TANREN, "doctor", "explain", str(tmp_path / name))
    assert (done.code, done.out) == (2, "")
    assert reason in done.err
    assert "Traceback" not in done.err


def test_help_of_the_doctor_names_explain(command: Callable[..., Any]) -> None:
    done = command(TANREN, "doctor", "--help")
    assert done.code == 0
    assert "tanren doctor explain LOGFILE" in done.out
    assert "LOGFILE" in command(TANREN, "doctor", "explain", "--help").out
