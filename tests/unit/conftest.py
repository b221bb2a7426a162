"""What several unit tests need: the tiny model, the tokenizers, a task pack in a folder, commands as processes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROOT = Path(__file__).parents[2]

# No time limit for an example: a busy machine is no fault of the code.
settings.register_profile("tanren", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tanren")

PACK_DESCRIPTION = """\
name = "shout"
title = "Words in capitals"
description = "Write a word in capitals."
licence = "Apache-2.0"
group = "length"
"""

PACK_CODE = '''\
"""A pack as a user would write it: a word, and the same word in capitals."""

from tanren.common.task_contract import Message, Parsed, Row, TaskOptions, Verdict

from .words import WORDS


class Options(TaskOptions):
    """What rows the pack makes."""

    count: int = 4
    """Rows of a split."""


def rows(split, options):
    words = WORDS[: options.count] if split == "train" else WORDS[-options.count :]
    return [
        Row(f"{split}-{word}", (Message("user", word),), word.upper(), "short" if len(word) < 5 else "long", word.upper())
        for word in words
    ]


def parse(completion, row):
    answer = completion.strip()
    if not answer:
        return Parsed(Verdict.ABSENT, error="no answer")
    if not answer.isupper():
        return Parsed(Verdict.UNPARSABLE, error="not in capitals")
    return Parsed(Verdict.CORRECT if answer == row.expected else Verdict.WRONG, answer)


def reward(completions, rows):
    return [float(parse(completion, row).correct) for completion, row in zip(completions, rows)]
'''

PACK_WORDS = 'WORDS = ["ash", "oak", "elm", "birch", "maple", "cedar", "fir", "willow"]\n'

# Says at the end which of the heavy libraries were imported.
_PRELUDE = (
    "import atexit, sys; atexit.register(lambda: sys.stderr.write("
    "'HEAVY=' + ','.join(m for m in ('torch', 'transformers') if m in sys.modules)))"
)


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def heavy(self) -> str:
        """The heavy libraries that it imported."""
        return self.err.rpartition("HEAVY=")[2]


@pytest.fixture(scope="session")
def command() -> Callable[..., Finished]:
    """Return a function that runs a command's module in a process of its own, in the workspace or in another folder."""

    def run(module: str, *arguments: str, folder: Path = ROOT, **environment: str) -> Finished:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TANREN_")}
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", f"{_PRELUDE}; from {module} import main; main()", *arguments],
            cwd=folder,
            env=inherited | {"PIXI_PROJECT_ROOT": str(ROOT), "COLUMNS": "120"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr, time.perf_counter() - begun)

    return run


@pytest.fixture
def pack_folder(tmp_path: Path) -> Path:
    """Return the folder of a complete small task pack, in several modules."""
    folder = tmp_path / "shout"
    folder.mkdir()
    (folder / "task.toml").write_text(PACK_DESCRIPTION, encoding="utf-8")
    (folder / "task.py").write_text(PACK_CODE, encoding="utf-8")
    (folder / "words.py").write_text(PACK_WORDS, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Return the byte-level tokenizer of the tiny models."""
    from tanren.common.models.tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    """Return the tokenizer of the quickstart's model, where the package that carries it is installed."""
    from tanren.common.models.load import load_tokenizer
    from tanren.common.models.source import SMOLLM2_MODULE, resolve_source

    if importlib.util.find_spec(SMOLLM2_MODULE) is None:
        pytest.skip(f"{SMOLLM2_MODULE} is not installed")
    return load_tokenizer(resolve_source("builtin:smollm2-135m"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread: on tensors this small, threads only wait for one another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_qwen3(one_thread: None) -> PreTrainedModel:
    """Return a fresh tiny Qwen3 in float32."""
    import torch

    from tanren.common.models.tiny import tiny_model

    model = tiny_model("tiny-qwen3", torch.float32)
    model.eval()
    return model
