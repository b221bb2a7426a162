"""Every attention kernel that is installed, on a CUDA device: alone, and within real architectures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tanren.common.attention import AttentionTraits, gpu_facts, installed_kernels, prove_kernel, select_attention
from tanren.common.attention._proof import LLAMA_LIKE
from tanren.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

MODELS = {
    "llama": LLAMA_LIKE,
    "all heads their own": AttentionTraits(4, 4, 64, 64),
    "small heads": AttentionTraits(9, 3, 64, 64),
    "wide heads": AttentionTraits(8, 4, 256, 256),
    "one key-value head": AttentionTraits(8, 1, 128, 128),
    "windows": replace(LLAMA_LIKE, windows=(4096,)),
    "gpt-oss": AttentionTraits(64, 8, 64, 64, windows=(128,), sinks=True, model_type="gpt_oss"),
    "soft-capped": AttentionTraits(8, 4, 128, 128, windows=(4096,), softcap=50.0, model_type="gemma2"),
}


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.parametrize(("model", "dtype"), [*((model, "bfloat16") for model in MODELS), ("llama", "float16")])
@pytest.mark.parametrize("kernel", ["flash_attention_4", "flash_attention_2", "varlen", "sdpa", "eager"])
def test_a_kernel_that_may_be_chosen_proves_right(kernel: str, model: str, dtype: str) -> None:
    try:
        select_attention(gpu_facts("cuda"), installed_kernels(), MODELS[model], dtype=dtype, named=kernel)
    except UserError as error:
        pytest.skip(str(error))
    proofs = [prove_kernel(kernel, "cuda", MODELS[model], dtype, seed) for seed in (1, 2)]
    print(kernel, model, dtype, *proofs)  # noqa: T201
    assert all(proof.good for proof in proofs), proofs


@pytest.mark.parametrize("kernel", ["flash_attention_4", "varlen", "sdpa"])
def test_a_kernel_repeats_its_gradients_bit_for_bit_when_asked_to(kernel: str) -> None:
    from tanren.common.attention._packing import Packing, Scores
    from tanren.common.attention.packed import attend

    if kernel not in installed_kernels():
        pytest.skip(f"{kernel} is not installed")
    lengths = (700, 300, 1048)
    packing = Packing.of(lengths, "cuda")
    shapes = ((1, 8, sum(lengths), 128), (1, 2, sum(lengths), 128), (1, 2, sum(lengths), 128))
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(5):
            query, key, value = tensors
            out = attend(kernel, query, key, value, packing, Scores(128**-0.5))
            runs.append((out, *torch.autograd.grad(out.float().square().sum(), tensors)))
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], run, strict=True))


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 32},
    "gemma3_text": {"sliding_window": 32, "query_pre_attn_scalar": 64},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 4, "sliding_window": 32},
}


def _model(kind: str, dtype: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import AutoConfig

    config = AutoConfig.for_model(
        kind,
        vocab_size=97,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        pad_token_id=0,
        **ARCHITECTURES[kind],
    )
    torch.manual_seed(5)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model.to("cuda", dtype).train()  # type: ignore[arg-type]
    return model


def _loss(logits: Any) -> Any:
    return logits.float().log_softmax(-1)[..., 7].sum()


@pytest.mark.parametrize("kernel", ["flash_attention_4", "varlen", "sdpa"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_gradients_of_an_architecture_are_those_of_eager_attention_alone(kind: str, kernel: str) -> None:
    from tanren.common.attention.packed import packing_arguments
    from tanren.common.attention.training import choose_training_attention

    if kernel not in installed_kernels():
        pytest.skip(f"{kernel} is not installed")
    generator = torch.Generator().manual_seed(6)
    samples = [torch.randint(0, 97, (1, length), generator=generator).cuda() for length in (180, 1, 77)]

    def alone(dtype: Any) -> dict[str, Any]:
        model = _model(kind, dtype)
        sum(_loss(model(input_ids=ids, use_cache=False).logits) for ids in samples).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    exact, rounded = alone(torch.float32), alone(torch.bfloat16)
    packed = _model(kind, torch.bfloat16)
    assert choose_training_attention(packed, kernel).kernel == kernel
    lengths = [ids.shape[1] for ids in samples]
    positions = torch.cat([torch.arange(length) for length in lengths])[None].cuda()
    _loss(
        packed(
            input_ids=torch.cat(samples, dim=1),
            position_ids=positions,
            use_cache=False,
            **packing_arguments(lengths, "cuda"),
        ).logits
    ).backward()
    # As close to float32 as eager attention in bfloat16 is: all gradients together, for a single one may be all rounding.
    found = {name: parameter.grad for name, parameter in packed.named_parameters() if parameter.grad is not None}
    assert found.keys() == exact.keys()

    def error(gradients: dict[str, Any]) -> float:
        off = sum(float((gradients[name].float() - right).square().sum()) for name, right in exact.items())
        return float((off / sum(float(right.square().sum()) for right in exact.values())) ** 0.5)

    print(kind, kernel, f"{error(found):.2e}, eager {error(rounded):.2e}")  # noqa: T201
    assert error(found) <= 2 * error(rounded)


def test_a_hopper_gpu_with_flash_attention_4_trains_with_it() -> None:
    from tanren.common.attention.training import choose_training_attention

    gpu = gpu_facts("cuda")
    assert gpu is not None
    if gpu.compute_capability != (9, 0) or "flash_attention_4" not in installed_kernels():
        pytest.skip("not a Hopper GPU with flash-attn-4")
    choice = choose_training_attention(_model("llama", torch.bfloat16))
    print(choice)  # noqa: T201
    assert (choice.kernel, choice.rejected) == ("flash_attention_4", ())


@pytest.mark.parametrize("traits", ["llama", "small heads", "one key-value head"])
@pytest.mark.parametrize("kernel", ["flash_attention_4", "varlen", "sdpa"])
def test_samples_that_go_on_from_another_attend_to_it(kernel: str, traits: str) -> None:
    from tanren.common.attention._packing import Packing, Scores
    from tanren.common.attention.packed import attend, sharing_fault

    model = MODELS[traits]
    if kernel not in installed_kernels():
        pytest.skip(f"{kernel} is not installed")
    assert sharing_fault(kernel, model) is None
    families = ((150, 70, 1, 130), (40,), (128, 64), (5, 200, 300))
    lengths = [length for family in families for length in family]
    follows = [place > 0 for family in families for place in range(len(family))]
    generator = torch.Generator().manual_seed(3)
    heads = ((model.heads, model.head_dim), (model.kv_heads, model.head_dim), (model.kv_heads, model.value_dim))
    exact = [torch.randn((1, n, sum(lengths), size), generator=generator) for n, size in heads]
    above = torch.randn((1, sum(lengths), model.heads, model.value_dim), generator=generator)
    found = []
    for name, device, dtype in ((kernel, "cuda", torch.bfloat16), ("eager", "cpu", torch.float64)):
        packing = Packing.of(lengths, device, follows)
        tensors = [one.bfloat16().to(device, dtype).requires_grad_() for one in exact]
        torch.use_deterministic_algorithms(True)
        try:
            query, key, value = tensors
            out = attend(name, query, key, value, packing, Scores(model.head_dim**-0.5))
            gradients = torch.autograd.grad(out, tensors, above.to(device, dtype))
        finally:
            torch.use_deterministic_algorithms(False)
        found.append([out.detach().double().cpu(), *(one.double().cpu() for one in gradients)])
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < 2e-2
