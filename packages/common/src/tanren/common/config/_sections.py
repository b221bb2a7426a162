"""Sections that several commands share, so that one recipe means the same thing to each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from ._model import ConfigModel

AUTO: Literal["auto"] = "auto"
"""A setting that is left to the planner, which chooses before the weights are loaded."""
Checkpointing = Literal["none", "selective", "full"]
"""How much of a layer is computed again in the backward pass."""
Layers = Literal["auto", "fused", "plain"]
"""How a model's layers are computed in training (tanren.common.fused)."""
Experts = Literal["auto", "grouped", "plain"]
"""How a layer's fused experts are computed in training (tanren.common.experts)."""
AttentionKernel = Literal["flash_attention_4", "flash_attention_2", "varlen", "sdpa", "eager"]
"""Attention kernels of training (tanren.common.attention)."""
Quantisation = Literal["none", "nf4", "int8", "fp8"]
"""Of frozen linear layers: as they are, in 4 or 8 bits as bitsandbytes keeps them, or in 8-bit floating point."""
Method = Literal["lora", "full"]
"""What is trained: an adapter, or all parameters."""


class ModelConfig(ConfigModel):
    """Which model, in which precision, on which device."""

    name: str = "builtin:smollm2-135m"
    """`builtin:NAME`, a local folder, or a Hugging Face hub id."""

    revision: str | None = None
    """Branch, tag or commit of a hub model; not set means the hub's default branch (the commit is recorded)."""

    chat_template: str | None = None
    """Another chat template than the model's own: a name of those that its tokenizer carries, or a file (Jinja)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the model computes. auto: bfloat16 where the chip multiplies it natively, else float32."""

    quantisation: Quantisation = "none"
    """Of the frozen linear layers: nf4 (4 bits, QLoRA, arXiv:2305.14314, scales quantised too) or int8 (LLM.int8(), arXiv:2208.07339) by
    bitsandbytes, for memory; fp8 (float8_e4m3fn, one scale for each output, inputs rounded as well) for speed, on a GPU of compute
    capability 8.9 or newer; what it costs in accuracy is measured and said. Embeddings, norms, the output head and fused experts stay as
    they are."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the first CUDA device where one is usable, else the CPU."""

    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 means all that this process may use. Bit-for-bit repeats need the same number."""


class StartConfig(ModelConfig):
    """Which model training starts from, in which precision, on which device."""

    parent: str | None = None
    """A finished run whose adapter is merged into the model first, with all that was merged before it: its run directory, or
    `latest:NAME`, the newest finished run of that recipe name in output.runs. What is trained is a fresh adapter on top."""


class LoraConfig(ConfigModel):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""

    alpha: Annotated[int, Field(gt=0)] = 32
    """The update is scaled by alpha / rank; with rslora by alpha / sqrt(rank)."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that a high rank learns as fast as a low one (rsLoRA, arXiv:2312.03732)."""

    dora: bool = False
    """Learn the length of each output's weights apart from their direction (DoRA, arXiv:2402.09353). Slower, and not for experts."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""

    target_modules: list[str] | str = "all-linear"
    """Names of the linear layers that get an adapter, or all-linear: every one but the output head."""

    target_parameters: list[str] = []
    """Weights of experts that are fused into one tensor, as mlp.experts.gate_up_proj, or with its layer: 7.mlp.experts.down_proj."""


class TaskConfig(ConfigModel):
    """The task pack that makes the rows, and its options."""

    name: str = "structured"
    """A folder under tasks/, a path to a pack's folder, or the name of an installed pack."""

    options: Annotated[dict[str, Any], tyro.conf.Suppress] = {}
    """The pack's own options; as flags: `--task.options.NAME VALUE`."""


class GenerationConfig(ConfigModel):
    """How completions are generated for evaluation: greedy, in batches."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion, in tokens; a completion that reaches it is counted as cut."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Prompts generated together."""

    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention of generation, transformers' own. auto: sdpa, or eager for what sdpa leaves out. `evaluate` reads the variable ATTN_IMPL, too."""


class OutputConfig(ConfigModel):
    """Where the run directory goes."""

    runs: Path = Path("runs")
    """Folder of the run directories."""

    run_dir: Path | None = None
    """This run's directory; must not exist. Not set means <runs>/<name>-<time>."""


class RequestsConfig(ConfigModel):
    """How a server is asked."""

    parallel: Annotated[int, Field(ge=1)] = 16
    """Requests under way at once."""

    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that one attempt may take."""

    total_s: Annotated[float, Field(gt=0)] = 1200.0
    """Seconds that one request may take with all its attempts; after that the run stops, and keeps what it has."""

    key_variable: str | None = None
    """The environment variable that holds the server's key. Not set: none is sent. The key itself is never logged or recorded."""
