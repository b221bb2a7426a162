"""The old stage files become a recipe that does the same, and nothing in them is guessed at or lost."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.config import load_config, load_stages
from tanren.common.errors import UserError
from tanren.common.import_env import import_env
from tanren.sft.config import SftConfig

FIRST = """\
# The first stage

SFT_BASE_MODEL=Qwen/Qwen3-4B-Instruct-2507
SFT_DATASET_ID=daichira/structured-5k-mix-sft
SFT_OUT_LORA_DIR=~/project/output/lora_v2
SFT_MAX_SEQ_LEN=2048
export SFT_LORA_R=16
SFT_LORA_ALPHA="32"
SFT_LORA_DROPOUT=0.05
SFT_EPOCHS=100
SFT_PER_DEVICE_TRAIN_BS=16
SFT_PER_DEVICE_EVAL_BS=4
SFT_GRAD_ACCUM=16
SFT_LR=1.6e-5  # 1e-6 x (256 / 16)
SFT_MAX_STEPS=100
SFT_EARLY_STOPPING_PATIENCE=5
SFT_EVAL_STEPS=10
SFT_SAVE_STEPS=20
"""
SECOND = FIRST.replace("SFT_DATASET_ID=daichira/structured-5k-mix-sft\n", "").replace(
    "SFT_LORA_R=16", "SFT_LORA_R=32"
) + (
    'SFT_DATASET_MIX=[{"id":"daichira/structured-hard-sft-4k","weight":2.0},{"id":"daichira/structured-5k-mix-sft","weight":1.0}]\n'
    "SFT_USE_UPSAMPLING=1\n"
    """SFT_UPSAMPLE_RULES='{"toml":2.0,"format=csv":1.5}'\n"""
)
SIZES = {"daichira/structured-hard-sft-4k": 4000, "daichira/structured-5k-mix-sft": 5000}
COMPLETE = "validation" in SftConfig.model_fields
needs_all_settings = pytest.mark.skipif(not COMPLETE, reason="this version has no [validation] to import into")

Write = Callable[..., list[Path]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes stage files, in an environment whose variables must not matter."""
    monkeypatch.setenv("SFT_LR", "5")
    monkeypatch.setenv("SFT_SEED", "1")

    def files(*texts: str) -> list[Path]:
        paths = [tmp_path / f"stage{number}.env" for number in range(1, len(texts) + 1)]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
        return paths

    return files


@needs_all_settings
def test_one_file_is_a_recipe_with_every_value_it_gave_and_the_old_defaults_for_the_others(write: Write) -> None:
    text = import_env(write(FIRST), {})
    values = tomllib.loads(text)
    assert values["name"] == "lora_v2"
    assert values["output"] == {"runs": "~/project/output"}  # opened by whoever makes the folder, once
    assert values["model"] == {"name": "Qwen/Qwen3-4B-Instruct-2507", "dtype": "bfloat16", "quantisation": "nf4"}
    assert values["data"]["sources"] == [{"name": "daichira/structured-5k-mix-sft"}]
    assert (values["data"]["max_tokens"], values["data"]["too_long"]) == (2048, "cut-left")
    assert values["data"]["learn_answer"] == "after_marker"
    assert values["data"]["validation_share"] == 0.05
    assert (values["lora"]["rank"], values["lora"]["alpha"], values["lora"]["dropout"]) == (16, 32, 0.05)
    assert values["optim"] == {"lr": 1.6e-5, "schedule": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.05}
    assert (values["train"]["rows_per_step"], values["train"]["max_steps"]) == (256, 100)
    assert "epochs" not in values["train"]
    assert (values["checkpoint"]["every_steps"], values["checkpoint"]["keep"]) == (20, 2)
    assert (values["validation"]["every_steps"], values["validation"]["patience"]) == (10, 5)
    assert "lr = 1.6e-05  # SFT_LR, stage1.env:14\n" in text
    assert "seed = 3407  # SFT_SEED, the old default\n" in text
    assert "# - SFT_EPOCHS had no effect: SFT_MAX_STEPS outranks it." in text
    assert "# - SFT_PER_DEVICE_EVAL_BS has no setting" in text


@needs_all_settings
def test_several_files_are_a_recipe_with_stages_that_loads(write: Write, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(import_env(write(FIRST, SECOND), SIZES), encoding="utf-8")
    how: dict[str, Any] = {
        "recipe": recipe,
        "flags": [],
        "environment": {},
        "prefix": "X__",
        "prog": "",
        "description": "",
    }
    assert load_config(SftConfig, **how).config.name == "lora_v2"
    first, second = load_stages(SftConfig, **how)
    assert [first.name, second.name] == ["stage1", "stage2"]
    assert [stage.loaded.config.lora.rank for stage in (first, second)] == [16, 32]
    assert [stage.loaded.config.optim.lr for stage in (first, second)] == [1.6e-5, 1.6e-5]
    values = second.loaded.values()["data"]
    assert [(one["name"].rpartition("/")[2], one["weight"]) for one in values["sources"]] == [
        ("structured-hard-sft-4k", 2.0),
        ("structured-5k-mix-sft", 1.0),
    ]
    assert values["total"] == 4999  # int(5000 x 2 / 3) + int(5000 x 1 / 3), as was computed from the old runs
    assert values["upsample"] == {"toml": 2.0}
    assert first.loaded.values()["data"]["upsample"] == {}
    text = recipe.read_text(encoding="utf-8")
    assert (
        "# - The rule 'format=csv' matched nothing, so it is left out; to have it: \"metadata.format=csv\" = 1.5"
        in text
    )
    assert "its third stage was trained on other weights" in text


@needs_all_settings
def test_a_mix_whose_size_is_not_known_is_used_whole_and_what_is_missing_is_said(write: Write) -> None:
    text = import_env(write(SECOND), {})
    data = tomllib.loads(text)["data"]
    assert all("weight" not in source for source in data["sources"])
    assert "total" not in data
    assert "--rows daichira/structured-hard-sft-4k=N --rows daichira/structured-5k-mix-sft=N" in text


@needs_all_settings
def test_a_secret_among_the_variables_is_named_and_not_shown(write: Write) -> None:
    text = import_env(write(FIRST + "HF_TOKEN=hf_secret\n"), {})
    assert "# - HF_TOKEN is no setting of training" in text
    assert "hf_secret" not in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("SFT_LR=1,6e-5", "stage1.env:19: SFT_LR is there twice, first in line 14"),
        (
            "SFT_WARMUP_RATIO=1,6e-5",
            "stage1.env:19: SFT_WARMUP_RATIO: found '1,6e-5', expected a number of at least 0 and below 1",
        ),
        ("SFT_SEED=", "stage1.env:19: SFT_SEED: found '', expected an integer of at least 0"),
        ("SFT_LOGGING_STEPS=5.0", "stage1.env:19: SFT_LOGGING_STEPS: found '5.0', expected an integer"),
        ("SFT_WEIGHT_DECAY=nan", "stage1.env:19: SFT_WEIGHT_DECAY: found 'nan'"),
        ("SFT_MASK_COT=maybe", "stage1.env:19: SFT_MASK_COT: found 'maybe', expected 1 or 0"),
        ("SFT_OUTPUT_LEARN_MODE=before", "expected after_marker or from_marker"),
        ("SFT_LORA_TARGET_MODULES=q_proj,,v_proj", "expected names with commas between, none empty"),
        ("SFT_LORRA_R=3", "stage1.env:19: SFT_LORRA_R: unknown variable; did you mean SFT_LORA_R?"),
        ('SFT_DATASET_MIX=[{"id":"a/b","weight":2.0}', "stage1.env:19: SFT_DATASET_MIX: found"),
        ('SFT_DATASET_MIX=[{"id":"a/b","wieght":2.0}]', "unknown key 'wieght'"),
        ('SFT_DATASET_MIX=[{"weight":2.0}]', 'expected entries like {"id": "owner/name", "weight": 1.0}'),
        ('SFT_UPSAMPLE_RULES={"toml":2.0', "which is no JSON"),
        ('SFT_UPSAMPLE_RULES={"toml":2.0,"toml":3.0}', "a key is there twice"),
        ('SFT_UPSAMPLE_RULES={"toml":"two"}', "expected a JSON object of rules and factors above 0"),
        ("SFT_OUT_LORA_DIR2=${HOME}/out", "stage1.env:19: SFT_OUT_LORA_DIR2 refers to another variable (${HOME}/out)"),
        ("SFT_SEED", "stage1.env:19: 'SFT_SEED' is no assignment; expected NAME=value"),
        ("SFT_SEED 3", "stage1.env:19: 'SFT_SEED 3' is no assignment"),
        ("DPO_BETA=0.1", "stage1.env:19: DPO_BETA: preference training (DPO) is no part of this version"),
    ],
)
def test_what_the_old_trainer_would_have_replaced_by_a_default_is_an_error_with_its_line(
    write: Write, line: str, told: str
) -> None:
    with pytest.raises(UserError) as error:
        import_env(write(f"{FIRST}{line}\n"), {})
    assert told in str(error.value)


def test_all_faults_of_a_file_are_told_at_once(write: Write) -> None:
    with pytest.raises(UserError) as error:
        import_env(write("SFT_LR=high\n\n\nSFT_LORA_R=zero\nSFT_EPOCH=3\n"), {})
    message = str(error.value)
    assert "stage1.env:1: SFT_LR" in message
    assert "stage1.env:4: SFT_LORA_R" in message
    assert "stage1.env:5: SFT_EPOCH: unknown variable; did you mean SFT_EPOCHS?" in message


@pytest.mark.parametrize(
    ("texts", "rows", "told"),
    [
        (["A=1\n"], {}, "has no variable that begins with SFT_"),
        ([FIRST, FIRST.replace("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-8B")], {}, "have one base model"),
        (
            [SECOND],
            {"a/b": 3},
            "no SFT_DATASET_MIX has it; daichira/structured-5k-mix-sft, daichira/structured-hard-sft-4k",
        ),
    ],
)
def test_files_that_make_no_chain_are_refused(write: Write, texts: list[str], rows: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        import_env(write(*texts), rows)


def test_a_file_given_twice_is_refused(write: Write) -> None:
    (path,) = write(FIRST)
    with pytest.raises(UserError, match="two files would make a stage of the name 'stage1'"):
        import_env([path, path], {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        import_env([tmp_path / "stage1.env"], {})
