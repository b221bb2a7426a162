"""One evaluation from recipe to report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tanren.common.chain import PROVENANCE, Link, read_adapter
from tanren.common.config import Loaded, dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode
from tanren.common.models.quantised import require_bitsandbytes
from tanren.common.models.source import resolve_source
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
from tanren.evaluate.candidate import check_provenance, quantisation_of, with_adapter
from tanren.evaluate.config import EvaluateConfig
from tanren.evaluate.evaluator import GenerationEvaluator
from tanren.evaluate.measures import pack_tables
from tanren.evaluate.report import write_report
from tanren.evaluate.table import score_table

BASE, ADAPTER = "base", "adapter"


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
    trained = read_adapter(adapter) if adapter is not None and (adapter / PROVENANCE).is_file() else None
    parents: Sequence[Link] = trained.parents if trained is not None else ()
    with console.phase("import", "torch, transformers"):
        from tanren.common.chat import template_hash
        from tanren.common.models.device import plan_device
        from tanren.common.models.load import load_model, load_tokenizer
        from tanren.common.models.packaged import loading
    device = plan_device(config.model)
    quantisation, why = quantisation_of(loaded_config, trained)
    if why:
        console.line(why)
    require_bitsandbytes(quantisation)
    with console.phase("load model", loading(source)):
        tokenizer = load_tokenizer(source, config.model.chat_template)
        base = load_model(source, device, quantisation)
    for note in base.notes:
        console.line(note)
    if trained is not None:
        check_provenance(trained, base.provenance, template_hash(tokenizer), config)
    elif adapter is not None:
        console.warn(f"adapter {adapter} has no {PROVENANCE}: whether it belongs to {source.name} cannot be checked")

    run = create_run(config.output.run_dir, config.output.runs, config.name)
    metrics = MetricsWriter(run.metrics)
    console.attach(metrics)
    with run.log.open("a", encoding="utf-8") as console.log:
        console.line(f"run directory: {run.path}")
        write_atomically(run.config, dump_toml(loaded_config.values(), loaded_config.origins))
        run.write_json(
            run.environment,
            describe_environment()
            | {
                "device": asdict(device),
                "model": base.provenance,
                "parents": [link.record(number) for number, link in enumerate(parents, start=1)],
                "chat_template_hash": template_hash(tokenizer),
            },
        )
        evaluator = GenerationEvaluator(pack, rows, config.generation, console)
        evaluator.evaluate(BASE, base.model, tokenizer, run.evaluation)
        comparison: Mapping[str, Any] = {}
        if adapter is not None:
            candidate = with_adapter(base, adapter, parents, source, device, quantisation, console)
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


def _tell(
    console: Console, evaluator: GenerationEvaluator, run: RunDirectory, pack: TaskPack, *, compared: bool
) -> None:
    if not compared:
        scores = json.loads((run.evaluation / BASE / "scores.json").read_text(encoding="utf-8"))
        console.text("\n".join([score_table(pack.description.group, scores, BASE), *pack_tables(pack, {BASE: scores})]))
        console.line(f"predictions and scores: {run.evaluation / BASE}")
        return
    with console.phase("write report"):
        page = write_report(run)
    console.text(evaluator.table(BASE, ADAPTER))
    console.line(f"report: {page}")
