"""One run from plan to report, read from top to bottom.

    rows -> samples -> model -> evaluate base -> LoRA training -> evaluate trained -> adapter, summary, report

Nothing is written before the rows are known to be good; `summary.json` is written last and says how the run ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tanren.common.config import dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode
from tanren.common.evaluators import Evaluator, find_evaluator, find_report_writer
from tanren.common.ground import check_same_config, check_same_ground
from tanren.common.interruption import say_stopped, watch_for_interruption
from tanren.common.run import (
    RunDirectory,
    create_run,
    open_run,
    read_steps,
    read_validations,
    refuse_existing,
    write_atomically,
    write_csv,
)
from tanren.common.session import failure_recorded, recorded
from tanren.common.tracking import Tracker, open_tracker
from tanren.sft.ground import MAY_DIFFER_ON_RESUME, SAME_ON_RESUME, describe_ground
from tanren.sft.memory import Settled, settle_memory, take_recorded
from tanren.sft.plan import Plan
from tanren.sft.prepare import Prepared, prepare
from tanren.sft.summary import final_numbers, make_summary, verdict_line

BASE, TRAINED = "base", "trained"


def run_job(plan: Plan, *, resume: str | None) -> int:
    """Run (or resume) the job; return the exit code. Raises UserError and MachineError with one message each."""
    console = Console()
    config = plan.config
    facts = f"{sum(plan.selection.sizes)} rows to train on, {len(plan.heldout_rows)} held out"
    console.line(f"train-sft {config.name}: {plan.source.name}, {facts}")
    for line in plan.selection.lines:
        console.line(line)
    for warning in plan.warnings:
        console.warn(warning)
    earlier = open_run(resume, config.output.runs, config.name) if resume else None
    if earlier is not None:
        plan = take_recorded(plan, earlier)
        check_same_config(plan.loaded.values(), earlier, MAY_DIFFER_ON_RESUME)
    else:
        refuse_existing(config.output.run_dir)  # told now, not after a minute of loading
    evaluator_class = find_evaluator() if plan.pack and config.evaluation.enabled else None

    prepared = prepare(plan, console)
    settled = settle_memory(plan, prepared.samples, prepared.device, console)
    plan = settled.plan
    run = earlier or create_run(config.output.run_dir, config.output.runs, config.name)
    with recorded(run, console):
        evaluator = None
        if evaluator_class is not None and plan.pack is not None:
            evaluator = evaluator_class(plan.pack, plan.heldout_rows, config.evaluation, console)
        tracker = open_tracker(config.tracking, config.output.runs, config, run, console)
        begun = time.time()
        with failure_recorded(run, tracker, lambda status: make_summary(plan, run, console, status, begun, {})):
            return _run(settled, prepared, run, console, evaluator, tracker, resumed=earlier is not None)


def _run(
    settled: Settled,
    prepared: Prepared,
    run: RunDirectory,
    console: Console,
    evaluator: Evaluator | None,
    tracker: Tracker,
    *,
    resumed: bool,
) -> int:
    """Do the run in its directory: evaluate, train, evaluate, save, report."""
    from tanren.common.chat import template_hash
    from tanren.sft.loop import finish_validation, make_trainer, train
    from tanren.sft.method import choose_attention, load_base, make_trainable, save_trained
    from tanren.sft.step_evaluation import step_evaluation_of

    plan = settled.plan
    begun = time.time()
    loaded = load_base(plan, prepared.device, prepared.samples, console)
    attention = choose_attention(plan, loaded, console)
    template = template_hash(prepared.tokenizer)
    environment = describe_ground(plan, prepared, attention, loaded, template) | {"memory_plan": settled.record()}
    if resumed:
        check_same_ground(run, environment, console, SAME_ON_RESUME)
    else:
        write_atomically(run.config, dump_toml(plan.loaded.values(), plan.loaded.origins))
        run.write_json(run.environment, environment)
        prepared.data.dropped.write(run.path / "dropped.jsonl")
    if evaluator is not None:
        evaluator.evaluate(BASE, loaded.model, prepared.tokenizer, run.evaluation)

    model, trainer_class = make_trainable(plan, loaded, console)
    with watch_for_interruption(console) as interruption:
        trainer = make_trainer(
            trainer_class,
            plan,
            prepared,
            model,
            run,
            console,
            tracker,
            interruption,
            packs=attention.packs,
            step_evaluation=step_evaluation_of(
                plan, prepared.tokenizer, plan.steps(prepared.samples.sizes), run, console
            ),
        )
        checkpoint = run.checkpoint(run.checkpoint_steps()[-1]) if resumed else None
        memory = train(trainer, settled, console, checkpoint)
    write_csv(read_steps(run.metrics), run.path / "metrics.csv")
    if trainer.between.validation is not None:
        write_csv(read_validations(run.metrics), run.path / "validation.csv")
    if interruption.status is not None:
        tracker.finish({}, "KILLED")
        run.write_json(run.summary, make_summary(plan, run, console, interruption.status, begun, {}, memory))
        return say_stopped(interruption, trainer.state.global_step, trainer.args.max_steps, run, console)

    validated = finish_validation(trainer, run, console)
    saved = save_trained(model, prepared.tokenizer, run, plan, loaded, template, prepared.device, console)
    comparison: Mapping[str, Any] = {}
    if evaluator is not None:
        evaluator.evaluate(TRAINED, model, prepared.tokenizer, run.evaluation)
        comparison = evaluator.compare(BASE, TRAINED)
    tracker.finish(final_numbers(comparison), "FINISHED")
    run.write_json(run.summary, make_summary(plan, run, console, "done", begun, comparison, memory, validated))
    with console.phase("write report"):
        page = find_report_writer()(run)
    if evaluator is not None:
        console.text(evaluator.table(BASE, TRAINED))
        console.line(verdict_line(comparison))
    console.line(f"{saved.name}: {saved}")
    console.line(f"report: {page}")
    return ExitCode.DONE
