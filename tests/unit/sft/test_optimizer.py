"""Which weights decay, and where an 8-bit optimizer is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tanren.common.chat import Sample
from tanren.common.config import OptimConfig
from tanren.common.errors import UserError
from tanren.common.models.tiny import tiny_model
from tanren.common.optimizer import check_optimizer, decayed_names
from tanren.sft.packing import lay_out
from tanren.sft.trainer import SftTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]
MakeTrainer = Callable[..., AbstractContextManager[SftTrainer]]


def test_matrices_decay_and_norms_biases_and_embeddings_do_not() -> None:
    decayed = {name for name in decayed_names(tiny_model("tiny-gpt-oss", torch.float32)) if "layers.1." not in name}
    assert {name.removeprefix("model.layers.0.") for name in decayed} == {
        *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
        "mlp.router.weight",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    }  # neither sinks nor experts' biases (a matrix, too), nor the head, which is tied to the embeddings


def test_both_halves_of_an_adapter_decay() -> None:
    model = get_peft_model(
        tiny_model("tiny-qwen3", torch.float32), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    )
    decayed = set(decayed_names(model))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    kept = {name for name in trained if "magnitude" in name}  # DoRA's lengths of columns
    assert len(kept) == 2
    assert trained & decayed == trained - kept


def test_the_decay_takes_the_rate_times_itself_of_a_matrix_in_each_step(
    tmp_path: Path, make: MakeSample, trainer_in: MakeTrainer
) -> None:
    steps = lay_out([make([10, 11, 12])], rows=1, rows_per_step=1, budget=8, seed=1)
    optim = {"lr": 0.1, "warmup_ratio": 0, "schedule": "constant", "weight_decay": 0.5}
    before = tiny_model("tiny-qwen3", torch.float32)
    with trainer_in(tmp_path, steps, optim=optim) as trainer:
        trainer.train()
    assert trainer.optimizer is not None
    groups = {
        group["weight_decay"]: sum(weight.dim() >= 2 for weight in group["params"])
        for group in trainer.optimizer.param_groups
    }
    assert groups == {0.5: 14, 0.0: 1}  # 2 layers of seven products; the embeddings
    # Adam's first step moves a weight by the rate (0.1; less where the gradient is tiny), after the decay by 0.1 x 0.5.
    name = "model.layers.0.mlp.up_proj.weight"
    old, new = (dict(model.named_parameters())[name].detach() for model in (before, trainer.model))  # type: ignore[union-attr]
    assert ((new - 0.95 * old).abs() - 0.1).abs().quantile(0.9) < 1e-3


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_an_8_bit_optimizer_is_refused_where_it_cannot_run(name: str) -> None:
    optim = OptimConfig.model_validate({"name": name})
    with pytest.raises(UserError, match=f"optim.name = {name} needs a CUDA device, and this run is on the cpu"):
        check_optimizer(optim, "cpu")
    check_optimizer(OptimConfig(), "cpu")
