"""A run of several sources in phases: what it says it trains on is what it trains on, and resuming changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Command, steps_of

MIX = """
name = "mix"

[model]
name = "builtin:tiny-qwen3"

[data]
total = 36
validation_share = 0.1
max_tokens = 60
too_long = "drop"
normalise = "code-tags"

[[data.sources]]
name = "rows.jsonl"
weight = 2

[[data.sources]]
name = "more.jsonl"

[data.upsample]
"metadata.format=toml" = 1.5

[[data.phases]]
sources = ["more.jsonl"]

[[data.phases]]
sources = { "rows.jsonl" = 1, "more.jsonl" = 0.5 }
epochs = 1.5

[train]
rows_per_step = 8

[checkpoint]
every_steps = 3

[evaluation]
enabled = false

[tracking]
mlflow = false
"""


@pytest.mark.usefixtures("work")
def test_a_mix_in_phases_is_accounted_for_and_resumes_bit_for_bit(work: Path, train_sft: Command) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"add {n} and 2"},
                {"role": "assistant", "content": "long " * 20 if n == 3 else f"it is {n + 2}"},
            ],
            "metadata": {"format": "toml"},
        }
        for n in range(12)
    ]
    (work / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (work / "mix.toml").write_text(MIX, encoding="utf-8")
    assert train_sft("mix.toml", "--output.run-dir", "straight", "--data.max-tokens", "100") == 0
    run = work / "straight"
    (dropped,) = [json.loads(line) for line in (run / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (dropped["row"], dropped["group"]) == ("more.jsonl:4", "toml")
    assert dropped["reason"] == "longer than 100 tokens"
    account = json.loads((run / "environment.json").read_text(encoding="utf-8"))["data"]
    assert [source["rows"] for source in account["sources"]] == [30, 12]
    assert account["training"]["normalised"] == {"as a whole": account["training"]["rows"]}
    assert account["training"]["rows"] + account["validation"]["rows"] == 36

    shutil.copytree(run, work / "killed")
    (work / "killed" / "summary.json").unlink()  # as after a kill
    shutil.rmtree(work / "killed" / "adapter")
    assert train_sft("mix.toml", "--resume", "killed", "--data.max-tokens", "100") == 0
    assert steps_of(work / "killed") == steps_of(run)
    adapters = [(work / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("straight", "killed")]
    assert adapters[0] == adapters[1]
