"""Which attention kernel is chosen by rule: for GPUs, models and installations that this machine does not have."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.attention import AttentionTraits, Choice, GpuFacts, generation_kernel, select_attention
from tanren.common.attention._proof import LLAMA_LIKE
from tanren.common.config import load_config
from tanren.common.errors import UserError
from tanren.evaluate.cli import COMMAND as EVALUATE
from tanren.sft.command import COMMAND as TRAIN_SFT
from tanren.sft.config import SftConfig

T4 = GpuFacts("Tesla T4", (7, 5))
A100 = GpuFacts("NVIDIA A100", (8, 0))
L4 = GpuFacts("NVIDIA L4", (8, 9))
H100 = GpuFacts("NVIDIA H100", (9, 0))
B200 = GpuFacts("NVIDIA B200", (10, 0))
B300 = GpuFacts("NVIDIA B300", (10, 3))
RTX_5080 = GpuFacts("NVIDIA GeForce RTX 5080", (12, 0))
GB10 = GpuFacts("NVIDIA GB10", (12, 1))
LOCKED = {"flash_attention_4": "4.0.0b19", "varlen": "2.11.0", "sdpa": "2.11.0", "eager": "2.11.0"}
PLAIN = {name: version for name, version in LOCKED.items() if name != "flash_attention_4"}
GPT_OSS = AttentionTraits(64, 8, 64, 64, windows=(128,), sinks=True, model_type="gpt_oss")
GEMMA2 = AttentionTraits(8, 4, 256, 256, windows=(4096,), softcap=50.0, model_type="gemma2")


def _choose(gpu: GpuFacts | None, installed: dict[str, str], traits: AttentionTraits = LLAMA_LIKE) -> Choice:
    return select_attention(gpu, installed, traits, dtype="bfloat16")


@pytest.mark.parametrize(
    ("gpu", "installed", "traits", "expected"),
    [
        (H100, LOCKED, LLAMA_LIKE, "flash_attention_4"),
        (B200, LOCKED, LLAMA_LIKE, "flash_attention_4"),
        (B300, LOCKED, LLAMA_LIKE, "flash_attention_4"),
        (H100, PLAIN, LLAMA_LIKE, "varlen"),
        (A100, LOCKED, LLAMA_LIKE, "varlen"),
        (L4, LOCKED, LLAMA_LIKE, "varlen"),
        (RTX_5080, LOCKED, LLAMA_LIKE, "varlen"),
        (GB10, LOCKED, LLAMA_LIKE, "varlen"),
        (T4, LOCKED, LLAMA_LIKE, "sdpa"),
        (None, LOCKED, LLAMA_LIKE, "sdpa"),
        (H100, LOCKED, GPT_OSS, "flash_attention_4"),
        (A100, LOCKED, GPT_OSS, "varlen"),
        (H100, LOCKED, GEMMA2, "sdpa"),
        (H100, LOCKED, replace(LLAMA_LIKE, head_dim=256, value_dim=256), "flash_attention_4"),
        (B300, LOCKED, replace(LLAMA_LIKE, head_dim=256, value_dim=256), "varlen"),
        (B300, LOCKED, replace(LLAMA_LIKE, head_dim=192, value_dim=128), "flash_attention_4"),
        (H100, LOCKED, replace(LLAMA_LIKE, head_dim=20, value_dim=20), "sdpa"),
        (H100, LOCKED, replace(LLAMA_LIKE, dropout=0.1), "sdpa"),
    ],
)
def test_the_kernel_follows_the_gpu_the_installation_and_the_model(
    gpu: GpuFacts | None, installed: dict[str, str], traits: AttentionTraits, expected: str
) -> None:
    assert _choose(gpu, installed, traits).kernel == expected


def test_a_step_down_is_told_where_the_better_kernel_was_to_be_expected() -> None:
    assert _choose(H100, PLAIN).lines()[1:] == ["attention: not flash_attention_4: it is not installed"]
    assert _choose(A100, PLAIN).rejected == ()
    assert _choose(None, LOCKED).rejected == ()
    failed = select_attention(
        H100, LOCKED, LLAMA_LIKE, dtype="bfloat16", failed={"flash_attention_4": "its proof failed: off"}
    )
    assert (failed.kernel, failed.rejected) == ("varlen", (("flash_attention_4", "its proof failed: off"),))


@pytest.mark.parametrize(
    ("gpu", "named", "dtype", "reason"),
    [
        (None, "varlen", "bfloat16", "it needs an NVIDIA GPU; name one of sdpa, eager"),
        (T4, "varlen", "float16", "its kernels begin at compute capability 8.0, and Tesla T4 has 7.5"),
        (H100, "varlen", "float32", "it computes in bfloat16 or float16, and the model is in float32"),
        (H100, "flash_attention_2", "bfloat16", "it is not installed"),
        (
            A100,
            "flash_attention_4",
            "bfloat16",
            "it is for compute capability 9.0, 10.0, 10.3, and NVIDIA A100 has 8.0",
        ),
    ],
)
def test_a_named_kernel_that_cannot_run_is_an_error_and_never_replaced(
    gpu: GpuFacts | None, named: str, dtype: str, reason: str
) -> None:
    with pytest.raises(UserError) as error:
        select_attention(gpu, LOCKED, LLAMA_LIKE, dtype=dtype, named=named)
    assert reason in str(error.value)


def test_generation_takes_eager_for_what_sdpa_leaves_out() -> None:
    assert [generation_kernel(traits) for traits in (LLAMA_LIKE, GPT_OSS, GEMMA2)] == ["sdpa", "eager", "eager"]
    assert generation_kernel(LLAMA_LIKE, "eager") == "eager"
    with pytest.raises(UserError, match="gpt_oss has attention sinks, which transformers' sdpa leaves out"):
        generation_kernel(GPT_OSS, "sdpa")


def _load(environment: dict[str, str], *flags: str, recipe: Path | None = None) -> tuple[str, str]:
    loaded = load_config(
        SftConfig,
        recipe=recipe,
        flags=flags,
        environment=environment,
        prefix=TRAIN_SFT.prefix,
        prog="train-sft",
        description="",
        variables=TRAIN_SFT.variables,
    )
    return loaded.config.train.attention, loaded.origins.get("train.attention", "")


def test_attn_impl_overrides_the_recipe_and_gives_way_to_a_flag(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[train]\nattention = "eager"\n', encoding="utf-8")
    assert _load({"ATTN_IMPL": "varlen"}, recipe=recipe) == ("varlen", "environment variable ATTN_IMPL")
    assert _load({"ATTN_IMPL": ""}, recipe=recipe) == ("eager", f"recipe {recipe}")
    assert _load({"ATTN_IMPL": "varlen"}, "--train.attention", "sdpa")[0] == "sdpa"
    named = {"ATTN_IMPL": "varlen", "TANREN_SFT__TRAIN__ATTENTION": "eager"}
    assert _load(named)[0] == "eager"
    with pytest.raises(UserError, match=r"environment variable ATTN_IMPL: train\.attention: found 'flash'"):
        _load({"ATTN_IMPL": "flash"})
    assert EVALUATE.variables == {"ATTN_IMPL": "generation.attention"}


def test_the_choice_needs_no_torch() -> None:
    code = "import sys, tanren.common.attention; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
