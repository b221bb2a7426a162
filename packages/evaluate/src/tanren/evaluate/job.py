"""One evaluation from recipe to report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tanren.common.config import Loaded, Quantisation, dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.models.quantised import require_bitsandbytes
from tanren.common.models.source import ModelSource, resolve_source
from tanren.common.run import (
    MetricsWriter,
    RunDirectory,
    create_run,
    describe_environment,
    refuse_existing,
    write_atomically,
)
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.evaluator import GenerationEvaluator
from tanren.evaluate.report import write_report
from tanren.evaluate.table import score_table

BASE, ADAPTER = "base", "adapter"
PROVENANCE = "provenance.json"


def run_job(loaded_config: Loaded[EvaluateConfig], pack: TaskPack, rows: Sequence[Row]) -> int:
    """Generate with the base model and the adapter, score, compare, report; return the exit code."""
    console = Console()
    config = loaded_config.config
    begun = time.time()
    source = resolve_source(config.model.name, config.model.revision)
    adapter = config.adapter.expanduser() if config.adapter else None
    console.line(
        f"evaluate {config.name}: {source.name}{f' and {adapter}' if adapter else ''}, {len(rows)} held-out items"
    )
    refuse_existing(config.output.run_dir)  # told now, not after a minute of loading
    with console.phase("import", "torch, transformers"):
        from tanren.common.chat import template_hash
        from tanren.common.models.device import plan_device
        from tanren.common.models.load import load_model, load_tokenizer
    device = plan_device(config.model)
    quantisation, why = quantisation_of(loaded_config, adapter)
    if why:
        console.line(why)
    require_bitsandbytes(quantisation)
    with console.phase("load model", source.name):
        tokenizer = load_tokenizer(source)
        base = load_model(source, device, quantisation)
    for note in base.notes:
        console.line(note)
    if adapter is not None:
        if not (adapter / PROVENANCE).is_file():
            console.warn(
                f"adapter {adapter} has no {PROVENANCE}: whether it belongs to {source.name} cannot be checked"
            )
        check_provenance(adapter, base.provenance, template_hash(tokenizer), config, source)

    run = create_run(config.output.run_dir, config.output.runs, config.name)
    metrics = MetricsWriter(run.metrics)
    console.attach(metrics)
    with run.log.open("a", encoding="utf-8") as console.log:
        console.line(f"run directory: {run.path}")
        write_atomically(run.config, dump_toml(loaded_config.values(), loaded_config.origins))
        run.write_json(
            run.environment,
            describe_environment()
            | {"device": asdict(device), "model": base.provenance, "chat_template_hash": template_hash(tokenizer)},
        )
        evaluator = GenerationEvaluator(pack, rows, config.generation, console)
        evaluator.evaluate(BASE, base.model, tokenizer, run.evaluation)
        comparison: Mapping[str, Any] = {}
        if adapter is not None:
            with console.phase("load adapter", str(adapter)):
                from peft import PeftModel

                candidate: Any = PeftModel.from_pretrained(base.model, str(adapter))
            evaluator.evaluate(ADAPTER, candidate, tokenizer, run.evaluation)
            comparison = evaluator.compare(BASE, ADAPTER)
        summary = {
            "status": "done",
            "name": config.name,
            "steps": 0,
            "seconds": round(time.time() - begun, 1),
            "seconds_by_phase": {name: round(value, 2) for name, value in console.seconds.items()},
            "evaluation": dict(comparison)
            or {"candidates": {BASE: json.loads((run.evaluation / BASE / "scores.json").read_text())}},
        }
        run.write_json(run.summary, summary)
        _tell(console, evaluator, run, pack, compared=adapter is not None)
    metrics.close()
    return ExitCode.DONE


def quantisation_of(loaded: Loaded[EvaluateConfig], adapter: Path | None) -> tuple[Quantisation, str]:
    """Return how the base model's layers are kept, and what is to be said of it: as the adapter was trained, unless it was named.

    What an adapter has learned belongs to the weights that it was trained on, with their rounding.
    """
    asked = loaded.config.model.quantisation
    if adapter is None or not (adapter / PROVENANCE).is_file():
        return asked, ""
    recorded = json.loads((adapter / PROVENANCE).read_text(encoding="utf-8"))["base_model"]
    trained: Quantisation = recorded.get("quantisation", "none")
    if trained == asked:
        return asked, ""
    if "model.quantisation" in loaded.origins:
        return asked, (
            f"the adapter was trained on a base with quantisation {trained}; it is evaluated with {asked}, as "
            f"model.quantisation says ({loaded.origins['model.quantisation']})"
        )
    return (
        trained,
        f"the base model is loaded in {trained}, as the adapter was trained; model.quantisation names another",
    )


def _tell(
    console: Console, evaluator: GenerationEvaluator, run: RunDirectory, pack: TaskPack, *, compared: bool
) -> None:
    if not compared:
        scores = json.loads((run.evaluation / BASE / "scores.json").read_text(encoding="utf-8"))
        console.text(score_table(pack.description.group, scores, BASE))
        console.line(f"predictions and scores: {run.evaluation / BASE}")
        return
    with console.phase("write report"):
        page = write_report(run)
    console.text(evaluator.table(BASE, ADAPTER))
    console.line(f"report: {page}")


def check_provenance(
    adapter: Path, base: Mapping[str, Any], template: str, config: EvaluateConfig, source: ModelSource
) -> None:
    """Refuse an adapter that was trained on other weights, or with another chat template.

    An adapter without provenance.json (not made here) cannot be checked: that is said, and it is let through.
    """
    path = adapter / PROVENANCE
    if not path.is_file():
        return
    recorded = json.loads(path.read_text(encoding="utf-8"))
    identity = ("weights_sha256", "commit", "name")
    key = next(key for key in identity if key in recorded["base_model"] or key in base)
    if recorded["base_model"].get(key) != base.get(key):
        raise UserError(
            f"adapter {adapter} was trained on another base model: {key} {recorded['base_model'].get(key)!r}, but {source.name} has "
            f"{base.get(key)!r}; set model.name (and model.revision) to the one it was trained on"
        )
    if recorded["chat_template_hash"] != template and not config.allow_other_template:
        raise UserError(
            f"adapter {adapter} was trained with the chat template {recorded['chat_template_hash']}, the model's is {template}; "
            "its prompts would differ from training; evaluate all the same with --allow-other-template"
        )
