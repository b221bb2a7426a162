"""`tanren merge`: the base, the chain below an adapter and the adapter itself, as one model that any program loads."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tanren.common.chain import MERGED_IN, PROVENANCE, SETTINGS, TrainedAdapter, find_parent, read_adapter, same_base
from tanren.common.config import ModelConfig
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.run import folder_written_aside

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tanren.common.models.load import LoadedModel

Precision = Literal["float32", "bfloat16"]
RUNS = Path("runs")


def merge_run(named: str, out: Path, dtype: str | None, model: str | None, chat_template: str | None = None) -> None:
    """Merge a run's result (or an adapter's folder) into its base and write the model to `out`, whole or not at all.

    `dtype`: what is written; not given, what the adapter was trained in. `model`: where the base is, if it has moved;
    `chat_template`: that of the training, where it was not the model's own (see `model.chat_template`).
    Raises UserError for whatever does not belong together, and where `out` exists.
    """
    target = out.expanduser()
    if target.exists():
        raise UserError(f"--out {out} exists; nothing is overwritten: name another folder, or delete that one")
    adapter = read_adapter(_adapter_folder(named))
    if dtype is not None and dtype not in get_args(Precision):
        raise UserError(f"--dtype {dtype!r}: known are {', '.join(get_args(Precision))}")
    written: Precision = dtype or adapter.itself.stored_in  # type: ignore[assignment]
    # The recorded precision of each merge can be had in weights that are at least as wide.
    loaded_in: Precision = "float32" if "float32" in (written, adapter.itself.stored_in) else "bfloat16"
    console = Console()
    source = _base(adapter, model)
    console.line(f"merge {source.name}, {', '.join(adapter.lines())}")
    with console.phase("import", "torch, transformers, peft"):
        import torch

        from tanren.common.chat import template_hash
        from tanren.common.models.device import plan_device
        from tanren.common.models.load import load_model, load_tokenizer
        from tanren.common.models.merging import merge_chain
    with console.phase("load model", source.describe()):
        tokenizer = load_tokenizer(source, chat_template)
        _check_template(adapter, template_hash(tokenizer), source)
        loaded = load_model(source, plan_device(ModelConfig(dtype=loaded_in)))
    for note in loaded.notes:
        console.line(note)
    quantisation = adapter.base.get("quantisation")
    if quantisation:
        console.warn(
            f"the adapter was trained on weights in {quantisation}, and is merged into 16- or 32-bit ones: its answers may differ from "
            "those that `evaluate` judges; evaluate the merged model"
        )
    differing = same_base(adapter.base, loaded.provenance)
    if differing:
        raise UserError(f"{adapter.folder} was trained on another base model: {differing}; name it with --model")
    with console.phase(
        "merge", f"{len(adapter.parents) + 1} adapters, each weight in {MERGED_IN}, stored in {written}"
    ):
        merged: Any = merge_chain(loaded.model, adapter.chain(written))
        merged = merged.to({"float32": torch.float32, "bfloat16": torch.bfloat16}[written])
    with console.phase("write", str(target)):
        _write(merged, tokenizer, target, adapter, loaded, written)
    console.line(f"merged model: {target} (model.name = {str(target)!r})")


def _adapter_folder(named: str) -> Path:
    folder = Path(named).expanduser()
    return folder if (folder / SETTINGS).is_file() else find_parent(named, RUNS, "RUN") / "adapter"


def _base(adapter: TrainedAdapter, model: str | None) -> ModelSource:
    """Return where the base is: at exactly the commit that it was trained on, if it is a hub's."""
    base = adapter.base
    try:
        source = resolve_source(model or base["name"], None if model else base.get("revision"))
    except UserError as error:
        raise UserError(
            f"the base model of {adapter.folder} is not to be had: {error}; say where it is with --model"
        ) from None
    commit = base.get("commit")
    return replace(source, revision=commit) if source.kind == "hub" and commit else source


def _check_template(adapter: TrainedAdapter, template: str, source: ModelSource) -> None:
    if adapter.template != template:
        raise UserError(
            f"{adapter.folder} was trained with the chat template {adapter.template}, {source.name} has {template}: the merged model "
            "would get other prompts than it has learned; name the one that it had then with --chat-template"
        )


def _write(
    merged: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    adapter: TrainedAdapter,
    loaded: LoadedModel,
    written: Precision,
) -> None:
    record = {
        "base_model": loaded.provenance,
        "merged": [link.merged_record() for link in adapter.chain(written)],
        "dtype": written,
        "chat_template_hash": adapter.template,
    }
    with folder_written_aside(target) as folder:
        merged.save_pretrained(folder)
        _check_whole(merged, folder)
        tokenizer.save_pretrained(folder)
        (folder / PROVENANCE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_whole(model: PreTrainedModel, folder: Path) -> None:
    """Hold what was written against the model: the library may write weights under other names, and must not lose one."""
    from safetensors import safe_open

    expected = {weight.data_ptr(): weight.numel() for weight in model.state_dict().values()}
    written = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            written += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)
    if written != sum(expected.values()):
        raise RuntimeError(f"{folder} holds {written} numbers, the merged model {sum(expected.values())}")
