"""What the old staged trainer was told by one .env file: every variable that it knew, with the value it ran with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.import_env import _values as values
from tanren.common.import_env._env_file import Variable, read_env_file

# Each variable, the default that its code had as a .env file would write it, and how its text is read.
KNOWN: dict[str, tuple[str, values.Read]] = {
    "SFT_BASE_MODEL": ("Qwen/Qwen3-4B-Instruct-2507", values.text),
    "SFT_DATASET_ID": ("u-10bei/structured_data_with_cot_dataset_512_v2", values.text),
    "SFT_DATASET_MIX": ("", values.mix),
    "SFT_DATASET_MIX_TOTAL_SIZE": ("-1", values.whole(-1)),
    "SFT_OUT_LORA_DIR": ("/content/lora_structeval_t_qwen3_4b", values.text),
    "SFT_SEED": ("3407", values.whole(0)),
    "SFT_VAL_RATIO": ("0.05", values.number(0, below=1)),
    "SFT_MAX_SEQ_LEN": ("512", values.whole(1)),
    "SFT_LORA_R": ("64", values.whole(1)),
    "SFT_LORA_ALPHA": ("128", values.whole(1)),
    "SFT_LORA_DROPOUT": ("0", values.number(0, below=1)),
    "SFT_LORA_TARGET_MODULES": ("q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", values.names),
    "SFT_EPOCHS": ("1", values.number(0, above=True)),
    "SFT_PER_DEVICE_TRAIN_BS": ("16", values.whole(1)),
    "SFT_PER_DEVICE_EVAL_BS": ("16", values.whole(1)),
    "SFT_GRAD_ACCUM": ("8", values.whole(1)),
    "SFT_LR": ("1e-6", values.number(0, above=True)),
    "SFT_WARMUP_RATIO": ("0.1", values.number(0, below=1)),
    "SFT_WEIGHT_DECAY": ("0.05", values.number(0)),
    "SFT_MAX_STEPS": ("-1", values.whole(-1)),
    "SFT_EARLY_STOPPING_PATIENCE": ("-1", values.whole(-1)),
    "SFT_LOGGING_STEPS": ("10", values.whole(1)),
    "SFT_EVAL_STEPS": ("5", values.whole(1)),
    "SFT_SAVE_STEPS": ("10", values.whole(1)),
    "SFT_SAVE_TOTAL_LIMIT": ("2", values.whole(1)),
    "SFT_MASK_COT": ("1", values.switch),
    "SFT_OUTPUT_MARKERS": ("Output:,OUTPUT:,Final:,Answer:,Result:,Response:", values.names),
    "SFT_OUTPUT_LEARN_MODE": ("after_marker", values.one_of("after_marker", "from_marker")),
    "SFT_USE_UPSAMPLING": ("0", values.switch),
    "SFT_UPSAMPLE_RULES": ("", values.rules),
    "SFT_REPO_LICENSE": ("apache-2.0", values.any_text),
    "MLFLOW_EXPERIMENT_NAME": ("", values.any_text),
    "HF_PRIVATE": ("0", values.any_text),
}
OURS, DPO = "SFT_", "DPO_"


@dataclass(frozen=True)
class OldStage:
    """One file's values, and where each came from."""

    file: Path
    given: Mapping[str, Variable]
    values: Mapping[str, Any]

    def origin(self, *variables: str) -> str:
        """Say which variables a setting comes from, with file and line, or that it is the old default."""
        return " and ".join(
            f"{name}, {self.given[name].origin}" if name in self.given else f"{name}, the old default"
            for name in variables
        )

    @property
    def others(self) -> list[Variable]:
        """Variables that the old trainer did not read."""
        return [variable for name, variable in self.given.items() if name not in KNOWN]


def read_old_stage(path: Path) -> OldStage:
    """Read one .env file. Raises UserError with every fault's file and line."""
    given = read_env_file(path)
    preference = [variable for name, variable in given.items() if name.startswith(DPO)]
    if preference:
        raise UserError(
            f"{preference[0].where}: preference training (DPO) is no part of this version; there is nothing to import it into"
        )
    if not any(name.startswith(OURS) for name in given):
        raise UserError(
            f"{path} has no variable that begins with {OURS}; name the .env file of a stage of the old trainer"
        )
    faults: list[str] = []
    found: dict[str, Any] = {}
    for name, variable in given.items():
        if name.startswith(OURS) and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            faults.append(
                f"{variable.where}: unknown variable{f'; did you mean {near[0]}?' if near else '; the old trainer had none of that name'}"
            )
    for name, (default, read) in KNOWN.items():
        try:
            found[name] = read(given[name] if name in given else Variable(name, default, path, 0))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return OldStage(path, given, found)
