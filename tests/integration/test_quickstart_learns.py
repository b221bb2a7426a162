"""The main job, smaller: SmolLM2 learns to convert documents, and everything that it leaves behind is right."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import tomllib
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, SCRIPTS

pytestmark = pytest.mark.timeout(900)  # a real training, on one thread
# Half of the quickstart's rows and a third of its items: enough to learn by a wide margin, in half the time.
SMALLER = ("--task.options.train_rows", "128", "--task.options.heldout_rows", "20", "--evaluation.max-new-tokens", "56")
RECIPE = ROOT / "tasks" / "structured" / "recipes" / "quickstart.toml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of one real training."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    command = [
        str(SCRIPTS / "train-sft"),
        str(RECIPE),
        *SMALLER,
        "--output.run-dir",
        str(folder),
        "--tracking.no-mlflow",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stderr)  # noqa: T201
    return folder


def _summary(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return values


def test_content_correct_rises_on_held_out_documents(run: Path) -> None:
    difference = _summary(run)["evaluation"]["difference"]["all"]["correct"]
    assert difference["n"] == 20
    assert difference["value"] >= 0.25
    assert difference["low"] > 0


def test_the_loss_falls_and_every_step_is_recorded(run: Path) -> None:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 16
    assert sum(losses[-4:]) < sum(losses[:4]) / 2


def test_memory_stays_below_six_gib(run: Path) -> None:
    assert _summary(run)["peak_memory_gib"] < 6


def test_scoring_again_without_a_model_gives_the_recorded_scores(run: Path) -> None:
    for candidate in ("base", "trained"):
        predictions = run / "evaluation" / candidate / "predictions.jsonl"
        command = [str(SCRIPTS / "evaluate"), "score", "structured", str(predictions), "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        found, recorded = json.loads(done.stdout), _summary(run)["evaluation"]["candidates"][candidate]
        assert {name: found[name] for name in recorded} == recorded
        assert found.keys() - recorded.keys() == {"lenient", "strict", "compatible"}


def test_verdicts_agree_with_an_independent_reading_of_the_json_items(run: Path) -> None:
    tasks = [json.loads(line) for line in (run / "evaluation" / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    path = run / "evaluation" / "trained" / "predictions.jsonl"
    written = {
        item["id"]: item["completion"] for item in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }
    right = 0
    for task in (task for task in tasks if task["group"] == "json"):
        try:
            right += json.loads(written[task["id"]]) == json.loads(task["reference"])
        except json.JSONDecodeError:
            continue
    recorded = _summary(run)["evaluation"]["candidates"]["trained"]["by_group"]["json"]["correct"]["count"]
    assert right <= recorded <= right + 1  # the pack also accepts an answer inside a fence


def test_the_recorded_configuration_is_a_recipe_with_origins(run: Path) -> None:
    text = (run / "config.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["task"]["options"]["train_rows"] == 128
    assert re.search(r"train_rows = 128 +# flag --task.options.train_rows", text)
    assert re.search(r"lr = 0.001 +# recipe .*quickstart.toml", text)
    assert re.search(r"dropout = 0.0 +# default", text)


def test_environment_and_adapter_say_what_they_stand_on(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    provenance = json.loads((run / "adapter" / "provenance.json").read_text(encoding="utf-8"))
    assert environment["model"]["weights_sha256"] == provenance["base_model"]["weights_sha256"]
    assert environment["chat_template_hash"] == provenance["chat_template_hash"]
    assert environment["packages"]["torch"] == metadata.version("torch")
    config = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "builtin:smollm2-135m"


class _Page(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            f"{tag} {key}={value}" for key, value in attrs if key in ("src", "href") and value and value[0] != "#"
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_self_contained_and_says_how_many_items(run: Path) -> None:
    page = _Page()
    page.feed((run / "report.html").read_text(encoding="utf-8"))
    assert page.fetched == []
    assert "20 held-out items" in page.text
    assert "loss (nats per token)" in (run / "report.html").read_text(encoding="utf-8")
    for part in ("Failures by kind", "Item by item", "Configuration", "Environment", "content correct"):
        assert part in page.text


def test_the_adapter_evaluated_by_itself_answers_as_it_did_after_training(run: Path, tmp_path: Path) -> None:
    command = [
        str(SCRIPTS / "evaluate"), "--candidate", f"adapter={run}", "--task.options.heldout_rows", "20", "--generation.max-new-tokens", "56",
        "--output.run-dir", str(tmp_path / "again"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for ours, theirs in (("base", "base"), ("trained", "adapter")):
        first = (run / "evaluation" / ours / "predictions.jsonl").read_text(encoding="utf-8")
        assert (tmp_path / "again" / "evaluation" / theirs / "predictions.jsonl").read_text(encoding="utf-8") == first
