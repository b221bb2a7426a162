"""The chain of adapters below an adapter: exact, checked by hash, and the same numbers wherever it is applied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tanren.common.chain import Link, copy_parents, find_parent, read_adapter
from tanren.common.config import LoraConfig
from tanren.common.errors import UserError
from tanren.common.lora import attach_adapter
from tanren.common.models.merging import load_adapter, merge_chain
from tanren.common.models.tiny import tiny_model
from tanren.common.workspace import sha256_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LINEAR = LoraConfig(rank=4, alpha=8)


def _train(folder: Path, name: str, lora: LoraConfig, parents: Sequence[Link] = (), seed: int = 0) -> Path:
    """Write an adapter with weights as after training: random ones on both sides."""
    model = attach_adapter(tiny_model(name, torch.float32), lora)
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if ".lora_" in key:
                weight.copy_(0.05 * torch.randn_like(weight))
    model.peft_config["default"].base_model_name_or_path = f"builtin:{name}"
    adapter = folder / "adapter"
    model.save_pretrained(adapter, save_embedding_layers=False)
    record = {
        "base_model": {"name": f"builtin:{name}"},
        "parents": copy_parents(parents, adapter),
        "adapter_sha256": sha256_of(adapter / "adapter_model.safetensors"),
        "adapter_config_sha256": sha256_of(adapter / "adapter_config.json"),
        "run": folder.name,
        "recipe": "test",
        "rank": lora.rank,
        "trained_in": "float32",
        "chat_template_hash": "t",
    }
    (adapter / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "summary.json").write_text('{"status": "done"}', encoding="utf-8")
    return adapter


def _delta(weights: Mapping[str, torch.Tensor], layer: str, scaling: float) -> torch.Tensor:
    """The update of a linear layer by its definition: scaling x B A, from the file alone."""
    a, b = (weights[f"base_model.model.{layer}.lora_{side}.weight"].double() for side in "AB")
    return scaling * b @ a


def _logits(model: Any) -> torch.Tensor:
    ids = torch.randint(3, 259, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The second adapter of a chain; the first one's run lies beside its own."""
    first = read_adapter(_train(tmp_path / "one", "tiny-qwen3", LINEAR, seed=1))
    return _train(tmp_path / "two", "tiny-qwen3", LINEAR, first.chain("float32"), seed=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_weight_is_the_exact_sum_rounded_once_for_each_merge(two: Path, dtype: torch.dtype) -> None:
    chain = read_adapter(two).chain(str(dtype).removeprefix("torch."))
    stored = [getattr(torch, link.stored_in) for link in chain]
    model = tiny_model("tiny-qwen3", dtype)
    expected: dict[str, torch.Tensor] = {}
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        weight = model.get_parameter(f"{name}.weight").detach().double()
        for link, precision in zip(chain, stored, strict=True):
            update = _delta(load_file(link.folder / "adapter_model.safetensors"), name, 8 / 4)
            weight = (weight + update).float().to(precision).to(dtype).double()
        expected[name] = weight
    merged = merge_chain(model, chain)
    for name, weight in expected.items():
        found = merged.get_parameter(f"{name}.weight").detach()
        assert found.dtype == dtype
        # products are summed in another order than in float64: a few may round the other way
        assert torch.allclose(found.double(), weight, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)
        assert dtype == torch.float32 or torch.eq(found.double(), weight).double().mean() > 0.99
    assert not any(".lora_" in name for name, _ in merged.named_parameters())
    assert not hasattr(merged, "peft_config")


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("tiny-qwen3", LINEAR),
        ("tiny-qwen3-moe", LoraConfig(rank=4, alpha=8, target_modules=ATTENTION, target_parameters=EXPERTS)),
        ("tiny-gpt-oss", LoraConfig(rank=4, alpha=8, target_modules=ATTENTION, target_parameters=EXPERTS)),
        ("tiny-gpt-oss", LoraConfig(rank=4, target_modules=["q_proj"], target_parameters=["1.mlp.experts.down_proj"])),
    ],
)
def test_a_merged_model_answers_as_the_adapter_on_the_model_does(tmp_path: Path, name: str, lora: LoraConfig) -> None:
    adapter = read_adapter(_train(tmp_path / "one", name, lora))
    apart = _logits(load_adapter(tiny_model(name, torch.float32), adapter.folder))
    merged = _logits(merge_chain(tiny_model(name, torch.float32), adapter.chain("float32")))
    base = _logits(tiny_model(name, torch.float32))
    assert torch.allclose(apart, merged, atol=1e-4)
    assert (merged - base).abs().max() > 1e-2  # and the adapter does something


def test_the_second_adapter_means_something_else_on_the_bare_base_than_on_its_parent(two: Path) -> None:
    adapter = read_adapter(two)
    on_parent = _logits(load_adapter(merge_chain(tiny_model("tiny-qwen3", torch.float32), adapter.parents), two))
    on_base = _logits(load_adapter(tiny_model("tiny-qwen3", torch.float32), two))
    assert (on_parent - on_base).abs().max() > 1e-2


def test_the_precision_of_a_merge_is_the_recorded_one_in_a_wider_model_too(tmp_path: Path) -> None:
    adapter = read_adapter(_train(tmp_path / "one", "tiny-qwen3", LINEAR))
    narrow = tiny_model("tiny-qwen3", torch.bfloat16)
    wide = tiny_model("tiny-qwen3", torch.bfloat16).float()
    name = "model.layers.0.self_attn.q_proj.weight"
    chain = adapter.chain("bfloat16")
    in_narrow = dict(merge_chain(narrow, chain).named_parameters())[name]
    in_wide = dict(merge_chain(wide, chain).named_parameters())[name]
    assert in_wide.dtype == torch.float32
    assert torch.equal(in_narrow.float(), in_wide)


def test_an_adapter_folder_is_whole_without_the_runs_of_its_parents(two: Path, tmp_path: Path) -> None:
    expected = [link.adapter_sha256 for link in read_adapter(two).parents]
    shutil.rmtree(tmp_path / "one")
    moved = shutil.move(two, tmp_path / "elsewhere")
    found = read_adapter(Path(moved))
    assert (
        [link.adapter_sha256 for link in found.parents]
        == expected
        == [sha256_of(found.parents[0].folder / "adapter_model.safetensors")]
    )


def test_a_parent_that_is_not_there_is_named_by_its_hash(two: Path) -> None:
    (parent,) = read_adapter(two).parents
    shutil.rmtree(two / "parents")
    with pytest.raises(UserError) as error:
        read_adapter(two)
    assert f"sha256 {parent.adapter_sha256}" in str(error.value)
    assert "copy the whole adapter folder" in str(error.value)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("place", ["", "parents/*"])
def test_a_changed_file_is_refused_in_the_adapter_and_in_its_parents(two: Path, name: str, place: str) -> None:
    (path,) = two.glob(f"{place}/{name}".removeprefix("/"))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="is another file than the one that"):
        read_adapter(two)


def test_an_adapter_that_does_not_fit_the_model_is_refused(two: Path) -> None:
    with pytest.raises(UserError, match="does not fit this model"):
        load_adapter(tiny_model("tiny-gpt-oss", torch.float32), two)


def test_an_adapter_with_a_weight_too_few_is_refused(two: Path) -> None:
    from safetensors.torch import save_file

    weights = load_file(two / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, two / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 of its weights are missing"):
        load_adapter(tiny_model("tiny-qwen3", torch.float32), two)


def test_an_adapter_on_an_output_head_that_is_tied_is_not_merged(tmp_path: Path) -> None:
    adapter = read_adapter(_train(tmp_path / "one", "tiny-qwen3", LoraConfig(rank=4, target_modules=["lm_head"])))
    with pytest.raises(UserError, match="one tensor for both"):
        merge_chain(tiny_model("tiny-qwen3", torch.float32), adapter.chain("float32"))


def test_latest_is_the_newest_finished_run_of_exactly_that_name(tmp_path: Path) -> None:
    for name, status in (
        ("a-20260101-000000", "done"),
        ("a-20260102-000000", "interrupted"),
        ("a-b-20260103-000000", "done"),
    ):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "summary.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    assert find_parent("latest:a", tmp_path).name == "a-20260101-000000"
    with pytest.raises(UserError, match="no run of it"):
        find_parent("latest:c", tmp_path)
    with pytest.raises(UserError, match="is interrupted, not done; finish it first: --resume"):
        find_parent(str(tmp_path / "a-20260102-000000"), tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_parent(str(tmp_path / "nowhere"), tmp_path)


def test_a_run_that_trained_the_whole_model_is_named_as_a_model_instead(tmp_path: Path) -> None:
    (tmp_path / "full" / "model").mkdir(parents=True)
    (tmp_path / "full" / "summary.json").write_text('{"status": "done"}', encoding="utf-8")
    with pytest.raises(UserError, match="its result is a whole model: write model"):
        find_parent(str(tmp_path / "full"), tmp_path)
