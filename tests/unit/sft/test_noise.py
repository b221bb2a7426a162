"""NEFTune: noise of the right size on what is trained on, and none anywhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from tanren.common.chat import Sample
from tanren.common.models.tiny import tiny_model
from tanren.common.run import RunDirectory, read_steps
from tanren.sft.noise import EmbeddingNoise
from tanren.sft.packing import lay_out
from tanren.sft.trainer import SftTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]
MakeTrainer = Callable[..., AbstractContextManager[SftTrainer]]


def test_each_sample_of_a_pack_has_noise_by_its_own_length_and_padding_has_none() -> None:
    model = tiny_model("tiny-qwen3", torch.float32)
    embeddings = model.get_input_embeddings()
    ids = torch.arange(10, 130)[None]
    plain = embeddings(ids)
    noise = EmbeddingNoise(model, alpha=5.0)
    torch.manual_seed(1)
    with noise.on([10, 90]):
        added = (embeddings(ids) - plain)[0]
    assert torch.equal(embeddings(ids), plain)  # as in validation and generation
    hidden = plain.shape[-1]
    for first, last, length in ((0, 10, 10), (10, 100, 90)):
        bound = 5 / math.sqrt(length * hidden)
        part = added[first:last]
        assert part.abs().max() <= bound * (1 + 1e-5)
        assert part.abs().max() > 0.99 * bound
        # of a uniform distribution between -b and b: mean 0, standard deviation b / sqrt(3)
        assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not added[100:].any()


def test_training_with_noise_is_another_and_resumes_bit_for_bit(
    tmp_path: Path, make: MakeSample, trainer_in: MakeTrainer
) -> None:
    samples = [make([10 + index, 20, 30 + index, 40], row_id=str(index)) for index in range(6)]
    steps = lay_out(samples, rows=12, rows_per_step=3, budget=8, seed=1)
    losses = {}
    for name, alpha in (("plain", 0.0), ("noisy", 5.0), ("parts", 5.0)):
        (tmp_path / name).mkdir()
        train = {"neftune_alpha": alpha}
        with trainer_in(tmp_path / name, steps, train=train, until=2 if name == "parts" else None) as trainer:
            trainer.train()
        if name == "parts":
            checkpoint = RunDirectory(tmp_path / name).checkpoint(2)
            with trainer_in(tmp_path / name, steps, train=train) as trainer:
                trainer.take_up(checkpoint)
                trainer.train(resume_from_checkpoint=str(checkpoint))
        losses[name] = [event["loss"] for event in read_steps(tmp_path / name / "metrics.jsonl")]
    assert len(losses["noisy"]) == 4
    assert losses["parts"] == losses["noisy"] != losses["plain"]
