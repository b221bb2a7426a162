"""The settings that make a run of ours do what the old trainer did with one .env file, and what is another here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.import_env._old import OldStage


@dataclass(frozen=True)
class Setting:
    """One key of a recipe, its value, and the variables that it comes from."""

    key: str
    value: Any
    origin: str


def settings_of(old: OldStage, rows: Mapping[str, int]) -> tuple[list[Setting], list[str]]:
    """Return the settings of one stage, and notes on what is another than it was.

    `rows` are the sizes of datasets, for the one thing that cannot be told without them: how many rows a mix had.
    """
    notes: list[str] = []
    settings = [Setting(*one) for one in _settings(old, rows, notes)]
    notes += _unused(old)
    return settings, notes


def _settings(old: OldStage, rows: Mapping[str, int], notes: list[str]) -> Iterator[tuple[str, Any, str]]:
    fixed = "fixed in the old trainer"
    runs, name = _place(old.values["SFT_OUT_LORA_DIR"])
    yield "name", name, old.origin("SFT_OUT_LORA_DIR")
    yield "seed", old.values["SFT_SEED"], old.origin("SFT_SEED")
    yield "model.name", old.values["SFT_BASE_MODEL"], old.origin("SFT_BASE_MODEL")
    yield "model.dtype", "bfloat16", fixed
    yield "model.quantisation", "nf4", fixed
    yield from _data(old, rows, notes)
    for key, variable in (
        ("rank", "R"),
        ("alpha", "ALPHA"),
        ("dropout", "DROPOUT"),
        ("target_modules", "TARGET_MODULES"),
    ):
        yield f"lora.{key}", old.values[f"SFT_LORA_{variable}"], old.origin(f"SFT_LORA_{variable}")
    yield "optim.lr", old.values["SFT_LR"], old.origin("SFT_LR")
    yield "optim.schedule", "cosine", fixed
    yield "optim.warmup_ratio", old.values["SFT_WARMUP_RATIO"], old.origin("SFT_WARMUP_RATIO")
    yield "optim.weight_decay", old.values["SFT_WEIGHT_DECAY"], old.origin("SFT_WEIGHT_DECAY")
    yield from _train(old, notes)
    yield "evaluation.enabled", False, "the old trainer judged no answers while it trained"
    if "MLFLOW_EXPERIMENT_NAME" in old.given and old.values["MLFLOW_EXPERIMENT_NAME"]:
        yield "tracking.experiment", old.values["MLFLOW_EXPERIMENT_NAME"], old.origin("MLFLOW_EXPERIMENT_NAME")
    if "SFT_OUT_LORA_DIR" in old.given:
        yield "output.runs", runs, old.origin("SFT_OUT_LORA_DIR")


def _place(folder: str) -> tuple[str, str]:
    """Return the folder for runs and the name, from the folder for adapters; a path of this project is relative to it."""
    path = Path(folder)
    here = Path.cwd()
    path = path.relative_to(here) if path.is_relative_to(here) else path
    return str(path.parent), path.name


def _data(old: OldStage, rows: Mapping[str, int], notes: list[str]) -> Iterator[tuple[str, Any, str]]:
    given = old.values["SFT_DATASET_MIX"]
    if given:
        if "SFT_DATASET_ID" in old.given:
            notes.append("SFT_DATASET_ID had no effect: SFT_DATASET_MIX outranks it.")
        yield from _mix(old, given, rows, notes)
    else:
        yield "data.sources", [{"name": old.values["SFT_DATASET_ID"]}], old.origin("SFT_DATASET_ID")
    if old.values["SFT_USE_UPSAMPLING"]:
        yield from _upsample(old, notes)
    elif old.values["SFT_UPSAMPLE_RULES"]:
        notes.append("SFT_UPSAMPLE_RULES had no effect: SFT_USE_UPSAMPLING is 0.")
    if old.values["SFT_MASK_COT"]:
        mode = old.values["SFT_OUTPUT_LEARN_MODE"]
        yield "data.learn_answer", mode, old.origin("SFT_MASK_COT", "SFT_OUTPUT_LEARN_MODE")
        yield "data.markers", old.values["SFT_OUTPUT_MARKERS"], old.origin("SFT_OUTPUT_MARKERS")
        notes.append(
            "Markers are found by characters, at the beginning of a line, not by tokens anywhere: the first that fills its line "
            "counts. Answers without one are learned whole, as before, and counted."
        )
    else:
        yield "data.learn_answer", "whole", old.origin("SFT_MASK_COT")
    yield "data.max_tokens", old.values["SFT_MAX_SEQ_LEN"], old.origin("SFT_MAX_SEQ_LEN")
    yield "data.too_long", "cut-left", "fixed in the old trainer"
    yield "data.fully_masked", "drop", "fixed in the old trainer"
    notes.append(
        "Longer samples are cut on the left, as before; now they are counted, and those with nothing left to learn listed."
    )
    if old.values["SFT_VAL_RATIO"]:
        yield "data.validation_share", old.values["SFT_VAL_RATIO"], old.origin("SFT_VAL_RATIO")
        notes.append("Validation rows are drawn by prompt: rows with the same prompt are on one side.")


def _mix(
    old: OldStage, given: list[dict[str, Any]], rows: Mapping[str, int], notes: list[str]
) -> Iterator[tuple[str, Any, str]]:
    used = [one for one in given if one["weight"] > 0]
    notes.extend(
        f"{one['id']} had the weight {one['weight']:g}, so it was not used." for one in given if one["weight"] <= 0
    )
    owners = {one["id"].split("/")[0] for one in used}
    if len(owners) > 1:
        notes.append(
            f"All sources are used; the old trainer left out those of another owner than the first ({', '.join(sorted(owners))})."
        )
    sources = [{"name": one["id"]} | ({"split": one["split"]} if one["split"] != "train" else {}) for one in used]
    origin = old.origin("SFT_DATASET_MIX")
    weights = [one["weight"] for one in used]
    total, where = old.values["SFT_DATASET_MIX_TOTAL_SIZE"], old.origin("SFT_DATASET_MIX_TOTAL_SIZE")
    if total <= 0 and len(used) > 1 and all(one["id"] in rows for one in used):
        largest = max(rows[one["id"]] for one in used)
        total = sum(int(largest * weight / sum(weights)) for weight in weights)
        where = f"the old rule: {largest} rows, those of the largest source, shared out by weight"
    if total > 0:
        yield "data.sources", [one | {"weight": weight} for one, weight in zip(sources, weights, strict=True)], origin
        yield "data.total", total, where
        notes.append(
            "No row is repeated to fill a source's share: where one has too few, that is an error with the largest total."
        )
        return
    yield "data.sources", sources, origin
    if len(used) > 1:
        missing = " ".join(f"--rows {one['id']}=N" for one in used)
        shares = ", ".join(f"{one['id']}: {one['weight']:g}" for one in used)
        notes.append(
            f"Every row of every source is used once. The old mix had weights ({shares}) and as many rows as the largest source; how "
            f"many that were is not in the file. To have it: `tanren import-env ... {missing}`."
        )


def _upsample(old: OldStage, notes: list[str]) -> Iterator[tuple[str, Any, str]]:
    usable = {}
    for rule, factor in old.values["SFT_UPSAMPLE_RULES"].items():
        if "=" in rule:
            notes.append(
                f'The rule {rule!r} matched nothing, so it is left out; to have it: "metadata.{rule}" = {factor:g} in data.upsample.'
            )
        elif factor != 1:
            usable[rule] = factor
    if usable:
        yield "data.upsample", usable, old.origin("SFT_UPSAMPLE_RULES")
    notes.append(
        "Upsampling is exact: a row comes factor times, and no other row is lost. Before, as many rows as there are were drawn anew with "
        "repetition, and about a third of them never came. A rule that matches nothing is an error."
    )


def _train(old: OldStage, notes: list[str]) -> Iterator[tuple[str, Any, str]]:
    if old.values["SFT_MAX_STEPS"] > 0:
        yield "train.max_steps", old.values["SFT_MAX_STEPS"], old.origin("SFT_MAX_STEPS")
        if "SFT_EPOCHS" in old.given:
            notes.append("SFT_EPOCHS had no effect: SFT_MAX_STEPS outranks it.")
    else:
        yield "train.epochs", old.values["SFT_EPOCHS"], old.origin("SFT_EPOCHS")
    batch = old.values["SFT_PER_DEVICE_TRAIN_BS"] * old.values["SFT_GRAD_ACCUM"]
    yield "train.rows_per_step", batch, old.origin("SFT_PER_DEVICE_TRAIN_BS", "SFT_GRAD_ACCUM")
    chosen = "what fits and is fastest; the result does not change"
    yield "train.micro_batch_tokens", "auto", chosen
    yield "train.gradient_checkpointing", "auto", chosen
    yield "train.log_every", old.values["SFT_LOGGING_STEPS"], old.origin("SFT_LOGGING_STEPS")
    yield "checkpoint.every_steps", old.values["SFT_SAVE_STEPS"], old.origin("SFT_SAVE_STEPS")
    yield "checkpoint.keep", old.values["SFT_SAVE_TOTAL_LIMIT"], old.origin("SFT_SAVE_TOTAL_LIMIT")
    if not old.values["SFT_VAL_RATIO"]:
        notes.append("SFT_VAL_RATIO is 0: there is no validation, so no early stopping and no best checkpoint.")
        return
    yield "checkpoint.keep_best", True, "fixed in the old trainer"
    yield "validation.every_steps", old.values["SFT_EVAL_STEPS"], old.origin("SFT_EVAL_STEPS")
    patience = max(0, old.values["SFT_EARLY_STOPPING_PATIENCE"])
    yield "validation.patience", patience, old.origin("SFT_EARLY_STOPPING_PATIENCE")
    yield "validation.restore_best", True, "fixed in the old trainer"


def _unused(old: OldStage) -> Iterator[str]:
    """Say of every other variable of the file what has become of it; never its value, which may be a secret."""
    yield "Adapters are in <output.runs>/<name>-<time>/adapter, those of stages in stages/<number>-<name>/adapter; nothing is overwritten."
    yield "A loss is the mean over all learned tokens of a step, however its rows are packed; so the old batch size has no setting of its own."
    replaced = {
        "SFT_PER_DEVICE_EVAL_BS": "validation is packed as training is",
        "SFT_REPO_LICENSE": "this version makes no model card",
        "HF_PRIVATE": "this version uploads nothing",
    }
    for name, reason in replaced.items():
        if name in old.given:
            yield f"{name} has no setting: {reason}."
    for variable in old.others:
        yield f"{variable.name} is no setting of training: where it is needed, set it in the environment."
