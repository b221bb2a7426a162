"""The failures that are known by their text: what the log says, what caused it, what to do.

To add one: the words as a program really prints them, the more special failure before the more general one (of a line,
the first that fits is taken), and its message in tests/unit/doctor/test_doctor_explain.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class KnownFailure:
    """A failure that is recognised in one line of a log."""

    id: str
    what: str
    marks: tuple[str, ...]
    """Plain texts, one of which is in every line that says it: a log is searched for them, not for the pattern."""
    pattern: str
    """Regular expression that such a line must match as well; its named groups may stand in cause and fix."""
    cause: str
    fix: str
    """A command or one sentence."""
    source: str = ""
    after: str = ""
    """Plain text that must stand on the same line or shortly before it, where the line alone says too little."""

    def explained(self, match: re.Match[str]) -> tuple[str, str]:
        """Return cause and fix, with what the line said in place of {name}."""
        groups: Mapping[str, str] = {name: group or "?" for name, group in match.groupdict().items()}
        return self.cause.format_map(groups), self.fix.format_map(groups)


_DOCTOR = "./pixiw run -e train doctor"
_SYNC = "./pixiw run -e train sync --force"

COMPILING = (
    KnownFailure(
        id="python-headers",
        what="Python's headers are missing",
        marks=("Python.h",),
        pattern=r"Python\.h['\"]?:? (?:No such file|not found|file not found)",
        cause="Triton compiles a small C file when its first kernel starts, and this Python came without its headers.",
        fix=f"use an environment, whose Python has them: {_DOCTOR} (or install python3-dev of this very Python)",
        source="https://github.com/sgl-project/sglang/issues/1117",
    ),
    KnownFailure(
        id="ptxas-architecture",
        what="ptxas does not know this GPU",
        marks=("is not defined for option 'gpu-name'",),
        pattern=r"[Vv]alue '(?P<arch>\w+)' is not defined for option 'gpu-name'",
        cause="This ptxas is older than the GPU's architecture {arch}; Triton takes the one in its wheel unless told otherwise.",
        fix="take a toolkit that knows {arch}, with TRITON_PTXAS_PATH set to its ptxas: "
        "./pixiw run -e train doctor (CUDA 12.9, to the B300) or ./pixiw run -e b300 doctor (13.0)",
        source="https://github.com/triton-lang/triton/issues/8539",
    ),
    KnownFailure(
        id="cuda-headers",
        what="CUDA's headers are missing",
        marks=("fatal error: cuda",),
        pattern=r"fatal error: (?P<header>cuda\w*\.h): No such file",
        cause="A CUDA extension is compiled and the toolkit's headers ({header}) are not where the compiler looks.",
        fix=f"compile in an environment with the toolkit, which sets CUDA_HOME: {_DOCTOR}",
        source="https://github.com/facebookresearch/xformers/issues/516",
    ),
    KnownFailure(
        id="no-c-compiler",
        what="there is no C compiler",
        marks=("Failed to find C compiler",),
        pattern=r"Failed to find C compiler",
        cause="Triton compiles a small C file when its first kernel starts, and found neither CC nor gcc nor clang.",
        fix=f"use an environment, which brings its compiler: {_DOCTOR}",
    ),
    KnownFailure(
        id="triton-compiler",
        what="Triton's C file could not be compiled",
        marks=("returned non-zero exit status",),
        pattern=r"Command '\[['\"][^'\"]*\b(?P<compiler>gcc|cc|clang)[^/'\"]*['\"], .*(?:cuda_utils|triton|/main\.c)",
        cause="The C compiler ({compiler}) that Triton started ended with an error: a header or libcuda.so is missing.",
        fix=f"read the compiler's own lines above this one; what is missing, the doctor finds: {_DOCTOR}",
    ),
    KnownFailure(
        id="no-triton",
        what="Triton is missing",
        marks=("Cannot find a working triton installation",),
        pattern=r"Cannot find a working triton installation",
        cause="torch.compile wants Triton, which is not installed or not of the version that this torch was built with.",
        fix=f"install exactly the lock: {_SYNC}",
        source="https://github.com/pytorch/pytorch/issues/125093",
    ),
)

LIBRARIES = (
    KnownFailure(
        id="cpu-torch",
        what="a CUDA extension beside a torch without CUDA",
        marks=("libtorch_cuda",),
        pattern=r"libtorch_cuda\w*\.so: cannot open shared object file",
        cause="The extension was built for a CUDA torch, and the installed torch is the CPU build or a much newer one.",
        fix=f"do not mix them; install exactly the lock of a GPU environment: {_SYNC}",
        source="https://github.com/state-spaces/mamba/issues/440",
    ),
    KnownFailure(
        id="torch-without-cuda",
        what="torch is the CPU build",
        marks=("Torch not compiled with CUDA enabled",),
        pattern=r"Torch not compiled with CUDA enabled",
        cause="The installed torch is the CPU build: something installed it over the CUDA build, or this is `default`.",
        fix=f"start in a GPU environment, whose lock has the CUDA build: {_SYNC}",
    ),
    KnownFailure(
        id="flash-attn-symbol",
        what="flash-attn was built for another torch",
        marks=("undefined symbol",),
        pattern=r"(?P<module>flash_attn\w*)[^:\s]*\.so: undefined symbol: ",
        cause="{module} was compiled against another version of torch (or its other C++ ABI) than the installed one.",
        fix="./pixiw run -e train install-flash-attn builds it for this torch; or remove it: nothing here needs it",
        source="https://github.com/Dao-AILab/flash-attention/issues/1832",
    ),
    KnownFailure(
        id="flashinfer-build",
        what="FlashInfer could not compile a kernel",
        marks=("cached_ops",),
        pattern=r"'ninja'.*/flashinfer/[\d.]+/\w+/cached_ops/",
        cause="FlashInfer compiles kernels with ninja and nvcc when vLLM first asks for them, and its sources or the compiler failed.",
        fix=f"install exactly the lock: {_SYNC}; or let vLLM sample without it: export VLLM_USE_FLASHINFER_SAMPLER=0",
    ),
    KnownFailure(
        id="extension-symbol",
        what="an extension was built for another library",
        marks=("undefined symbol",),
        pattern=r"(?P<module>\b[\w.-]{1,100}\.so[\d.]{0,20}): undefined symbol: ",
        cause="{module} was built against another version of torch or of a CUDA library than the one that was loaded.",
        fix=f"install exactly the lock, and load nothing through LD_LIBRARY_PATH: {_SYNC}",
        source="https://github.com/Dao-AILab/flash-attention/issues/1832",
    ),
    KnownFailure(
        id="cuda-runtime-library",
        what="the CUDA runtime of another major version is wanted",
        marks=("libcudart.so",),
        pattern=r"libcudart\.so\.(?P<major>\d+)[\d.]*: cannot open shared object file",
        cause="A package (vLLM, bitsandbytes, ...) was built for CUDA {major}, and torch brought another one or none.",
        fix="use one environment for all of it: train is CUDA 12, b300 and gh200 are CUDA 13; then `sync --force` there",
        source="https://github.com/vllm-project/vllm/issues/36099",
    ),
    KnownFailure(
        id="bitsandbytes-cuda",
        what="bitsandbytes has no library for this CUDA",
        marks=("CUDA Setup failed", "bitsandbytes CUDA binary", "libbitsandbytes_c"),
        pattern=r"CUDA Setup failed despite|[Cc]ould not find the bitsandbytes CUDA binary|"
        r"Configured CUDA binary not found|"
        r"(?:version not found: |native library: ).*libbitsandbytes_\w+\.so|libbitsandbytes_\w+\.so: cannot open",
        cause="This bitsandbytes was built for other CUDA versions than torch's; BNB_CUDA_VERSION can cause it, too.",
        fix=f"unset BNB_CUDA_VERSION and install exactly the lock: {_SYNC}",
        source="https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1559",
    ),
    KnownFailure(
        id="glibc",
        what="the machine's glibc is too old",
        marks=("GLIBC_", "GLIBCXX_"),
        pattern=r"version [`'](?P<version>GLIBC(?:XX)?_[\d.]+)' not found",
        cause="A wheel or program was built on a newer Linux and asks for {version}.",
        fix=f"which environment fits this machine's glibc, the doctor says: {_DOCTOR}; else use a newer distribution",
    ),
)

DEVICE = (
    KnownFailure(
        id="no-kernel-image",
        what="a library has no kernels for this GPU",
        marks=("no kernel image is available", "is not compatible with the current PyTorch"),
        pattern=r"no kernel image is available for execution|"
        r"with CUDA capability sm_\w+ is not compatible with the current PyTorch",
        cause="torch or an extension was not compiled for this GPU's compute capability (it is newer, or no longer built for).",
        fix=f"which environment is for this GPU, the doctor says: {_DOCTOR}; build own extensions with TORCH_CUDA_ARCH_LIST",
        source="https://github.com/pytorch/pytorch/issues/31285",
    ),
    KnownFailure(
        id="driver-combination",
        what="driver library and driver do not fit (error 803)",
        marks=("unsupported display driver / cuda driver combination",),
        pattern=r"unsupported display driver / cuda driver combination",
        cause="The libcuda.so that was loaded is not the kernel driver's: cuda-compat on an unfit GPU, or a driver updated live.",
        fix="take cuda-compat out of LD_LIBRARY_PATH; after a driver update restart the machine (and the container)",
        source="https://docs.nvidia.com/deploy/cuda-compatibility/",
    ),
    KnownFailure(
        id="driver-too-old",
        what="the NVIDIA driver is too old",
        marks=("NVIDIA driver on your system is too old", "CUDA driver version is insufficient"),
        pattern=r"NVIDIA driver on your system is too old|"
        r"CUDA driver version is insufficient for CUDA runtime version",
        cause="torch was built for a newer CUDA than the driver can run (12.9 needs driver 570, 13.0 needs 580).",
        fix=f"update the driver, or use the environment of the older CUDA: {_DOCTOR}",
        source="https://docs.nvidia.com/deploy/cuda-compatibility/",
    ),
    KnownFailure(
        id="no-driver",
        what="no NVIDIA driver, or no GPU is visible",
        marks=("Found no NVIDIA driver", "No CUDA GPUs are available", "no CUDA-capable device is detected"),
        pattern=r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected",
        cause="The process sees no GPU: no driver, a container without its GPUs, or CUDA_VISIBLE_DEVICES hides them.",
        fix="try nvidia-smi in the same place; start a container with --gpus all; else train with model.device = cpu",
    ),
    KnownFailure(
        id="unsloth-no-gpu",
        what="unsloth sees no GPU",
        marks=("Unsloth",),
        pattern=r"Unsloth cannot find any torch accelerator|Unsloth: No NVIDIA GPU found|Unsloth currently only works on",
        cause="unsloth refuses to be imported where torch sees no GPU: no GPU, no driver, or a torch without CUDA.",
        fix=f"find out which of them: {_DOCTOR}",
        source="https://github.com/unslothai/unsloth/pull/9281",
    ),
)

_GPU_MEMORY = r"OutOfMemoryError: CUDA|CUDA out of memory\. |CUDA [Ee]rror: out of memory"
_WAKE_UP = KnownFailure(
    id="vllm-wake-up",
    what="GPU memory ran out when vLLM woke up",
    marks=("out of memory",),
    pattern=r"CUDA Error: out of memory at \S*cumem_allocator",
    cause="vLLM takes its weights and KV cache back while the trainer still holds, or keeps reserved, that memory.",
    fix="lower gpu_memory_utilization, and let the trainer give its memory back (empty_cache) before each wake-up",
    source="https://github.com/vllm-project/vllm/issues/13941",
)

MEMORY = (
    _WAKE_UP,
    replace(_WAKE_UP, pattern=_GPU_MEMORY, after="in wake_up"),
    KnownFailure(
        id="vllm-kv-cache",
        what="vLLM has no room for its KV cache",
        marks=("No available memory for the cache blocks", "KV cache"),
        pattern=r"No available memory for the cache blocks|KV cache is needed, which is larger than|"
        r"larger than the maximum number of tokens that can be stored in KV cache",
        cause="After the weights, vLLM's share of the GPU is too small for one sequence of max_model_len tokens.",
        fix="lower max_model_len to what prompts and completions need, or raise gpu_memory_utilization",
        source="https://github.com/vllm-project/vllm/issues/2248",
    ),
    KnownFailure(
        id="vllm-memory-taken",
        what="the GPU is not free enough for vLLM",
        marks=("is less than desired GPU memory utilization",),
        pattern=r"is less than desired GPU memory utilization",
        cause="Other processes hold the GPU's memory, and vLLM wants its share of all of it, not of what is free.",
        fix="see in nvidia-smi who holds it and end what is yours; or lower gpu_memory_utilization below the free share",
        source="https://github.com/vllm-project/vllm/issues/20305",
    ),
    KnownFailure(
        id="gpu-memory",
        what="GPU memory ran out",
        marks=("out of memory",),
        pattern=_GPU_MEMORY,
        cause="The step needs more than the GPU has free: activations grow with the tokens of a micro-batch.",
        fix="halve train.micro_batch_tokens, then set train.gradient_checkpointing = true; nvidia-smi shows who else is there",
        source="https://docs.pytorch.org/docs/stable/notes/cuda.html",
    ),
    KnownFailure(
        id="nccl-shared-memory",
        what="NCCL found no room in /dev/shm",
        marks=("shared memory segment", "failed to extend", "posix_fallocate failed"),
        pattern=r"NCCL WARN .*(?:Error while (?:creating|attaching to) shared memory segment|failed to extend /dev/shm/nccl|"
        r"Call to posix_fallocate failed)",
        cause="The GPUs of one machine exchange data through /dev/shm; a container has 64 MB of it unless told otherwise.",
        fix="start the container with --ipc=host or --shm-size=8g (Kubernetes: a memory-backed emptyDir at /dev/shm)",
        source="https://github.com/NVIDIA/nccl/issues/342",
    ),
    KnownFailure(
        id="bus-error",
        what="shared memory (/dev/shm) is full, as a rule",
        marks=("Bus error", "bus error", "SIGBUS"),
        pattern=r"[Bb]us error(?: encountered in worker|\. It is possible| \(core dumped\)|\s*$)|\(SIGBUS\)",
        cause="A process wrote to shared memory that has no room: a data loader's workers pass tensors through /dev/shm.",
        fix="start the container with --ipc=host or --shm-size=8g; df -h /dev/shm shows it filling; or load without workers",
        source="https://github.com/pytorch/pytorch/issues/5040",
    ),
    KnownFailure(
        id="disk-full",
        what="the disk is full",
        marks=("No space left on device", "Disk quota exceeded"),
        pattern=r"No space left on device|Disk quota exceeded",
        cause="A file could not be written: checkpoints, a model cache, or /tmp have filled the disk or the quota.",
        fix="df -h shows which; free some space or set checkpoint.keep lower, then go on with --resume",
    ),
    KnownFailure(
        id="killed",
        what="a process was killed, as a rule for its use of main memory",
        marks=("Killed", "SIGKILL", "exitcode: -9", "code 137", "status 137", "oom-kill:"),
        pattern=r"(?:^|\])Killed\s*$|: line \d+: +\d+ Killed\b|[Oo]ut of memory: Killed process|oom-kill:|OOMKilled|"
        r"Signals\.SIGKILL|\(SIGKILL\)|signal SIGKILL|signal: Killed|exitcode: -9\b|(?:code|status) 137\b",
        cause="The kernel ended it (signal 9, exit code 137): as a rule the memory limit of the container or job was reached.",
        fix="dmesg or the scheduler's record confirms it; raise the job's memory, or load fewer models and rows at a time",
        source="https://docs.kernel.org/admin-guide/cgroup-v2.html",
    ),
)

DISTRIBUTED = (
    KnownFailure(
        id="nccl-time-out",
        what="a rank waited in vain for the others",
        marks=("Watchdog caught collective operation timeout",),
        pattern=r"Watchdog caught collective operation timeout(?:: WorkNCCL\(SeqNum=\d+, OpType=(?P<operation>\w+))?",
        cause="In {operation} not all ranks took part in time: one had failed, was far slower, or ran other operations.",
        fix="look for the rank whose own error comes first, or whose SeqNum stays behind; NCCL_DEBUG=INFO says more",
        source="https://github.com/pytorch/pytorch/issues/118369",
    ),
    KnownFailure(
        id="nccl-system-error",
        what="NCCL failed in a system call",
        marks=("unhandled system error", "ncclSystemError"),
        pattern=r"NCCL.*unhandled system error|ncclSystemError: ",
        cause="A system call of NCCL failed: as a rule /dev/shm is too small, or it took a network interface that leads nowhere.",
        fix="start again with NCCL_DEBUG=WARN, which names the call; try --ipc=host, and NCCL_SOCKET_IFNAME",
        source="https://github.com/NVIDIA/nccl/issues/328",
    ),
    KnownFailure(
        id="spawn-guard",
        what="a script started its processes while it was being imported",
        marks=("finished its bootstrapping phase",),
        pattern=r"finished its bootstrapping phase",
        cause="A spawned process (vLLM's, a data loader's) imports the script again, which has no `__main__` guard.",
        fix="put what the script does under `if __name__ == '__main__':`",
        source="https://docs.vllm.ai/en/latest/usage/troubleshooting.html",
    ),
    KnownFailure(
        id="cuda-after-fork",
        what="CUDA was used before a process was forked",
        marks=("Cannot re-initialize CUDA in forked subprocess",),
        pattern=r"Cannot re-initialize CUDA in forked subprocess",
        cause="The parent had started CUDA before it forked, and a forked copy of that cannot work.",
        fix="touch no GPU before the processes start, or spawn them (vLLM: VLLM_WORKER_MULTIPROC_METHOD=spawn)",
        source="https://docs.pytorch.org/docs/stable/notes/multiprocessing.html",
    ),
)

SETTINGS = (
    KnownFailure(
        id="flash-attention-missing",
        what="FlashAttention was asked for and cannot be used",
        marks=("has been toggled on, but it cannot be used", "seems to be not installed", "seem to be installed"),
        pattern=r"FlashAttention ?\d has been toggled on|"
        r"package flash_attn(?:_\d)? seems to be not installed",
        cause="The model was loaded with FlashAttention as its attention, whose package is missing here or unfit for the GPU.",
        fix="ask for sdpa instead (attn_implementation): it is in torch, and as exact",
        source="https://huggingface.co/docs/transformers/attention_interface",
    ),
    KnownFailure(
        id="deepspeed-batch",
        what="DeepSpeed's batch sizes disagree",
        marks=("Check batch related parameters",),
        pattern=r"Check batch related parameters(?:.*world_size (?P<total>\d+) != (?P<micro>\d+) \* (?P<steps>\d+) \* (?P<ranks>\d+))?",
        cause="train_batch_size {total} is not micro batch {micro} x accumulation {steps} x ranks {ranks}.",
        fix='write "auto" for all three in the DeepSpeed file, or start as many processes as it was written for',
        source="https://github.com/deepspeedai/DeepSpeed/issues/6914",
    ),
    KnownFailure(
        id="chat-template-name",
        what="the chat template's name is not known",
        marks=("'chatml'",),
        pattern=r"Input should be .*'chatml'.*input_value='(?P<name>[^']*)'",
        cause="chat_template must be one of the names in this line, and {name} is none of them.",
        fix="take a name from the list (tokenizer_default: the model's own); a file's content goes to chat_template_jinja",
        source="https://github.com/axolotl-ai-cloud/axolotl/issues/2858",
    ),
    KnownFailure(
        id="generations-per-prompt",
        what="the batch does not hold whole groups of completions",
        marks=("number of generations per prompt", "must be divisible by num_generations"),
        pattern=r"divisible by the number of generations per prompt|"
        r"generation_batch_size \(\d+\) must be divisible by num_generations",
        cause="TRL counts completions, not prompts, and the batch over all processes is no multiple of num_generations.",
        fix="make per_device_train_batch_size x processes (x accumulation) a multiple of num_generations",
        source="https://github.com/huggingface/trl/issues/3061",
    ),
    KnownFailure(
        id="device-assert",
        what="a kernel met an index out of range",
        marks=("device-side assert triggered",),
        pattern=r"device-side assert triggered",
        cause="As a rule a token id or label is not below the vocabulary's size: the tokenizer is not this model's.",
        fix="check tokenizer against model; CUDA_LAUNCH_BLOCKING=1, or one step with model.device = cpu, names the operation",
    ),
)

HUB = (
    KnownFailure(
        id="hub-refused",
        what="the hub refused to give a repository",
        marks=("gated repo", "Client Error", "Client error", "RepositoryNotFoundError", "Repository Not Found"),
        pattern=r"Cannot access gated repo for url|access a gated repo|"
        r"GatedRepoError: |RepositoryNotFoundError: |Repository Not Found for url|"
        r"(?:401|403) Client Error.*huggingface|Client error '(?:401|403) .*huggingface",
        cause="The repository is gated, private or not there under this name, and no token came that may read it.",
        fix="accept its terms on its page, then `hf auth login` (or set HF_TOKEN) as that account; `hf auth whoami` says who asks",
        source="https://huggingface.co/docs/hub/models-gated",
    ),
    KnownFailure(
        id="hub-offline",
        what="the hub cannot be reached and the cache has no copy",
        marks=("outgoing traffic has been disabled", "offline mode is enabled", "on the Hub", "We couldn't connect to"),
        pattern=r"outgoing traffic has been disabled|offline mode is enabled|on the Hub,? and we cannot find|"
        r"We couldn't connect to '\S*' to load",
        cause="There is no network here, or HF_HUB_OFFLINE is set, and the file is not in the cache of HF_HOME.",
        fix="fetch it where there is a network (hf download NAME), share that HF_HOME, or set model.name to a local folder",
        source="https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables",
    ),
)

KNOWN_FAILURES = (*COMPILING, *LIBRARIES, *DEVICE, *MEMORY, *DISTRIBUTED, *SETTINGS, *HUB)
