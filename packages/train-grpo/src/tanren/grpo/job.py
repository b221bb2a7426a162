"""One run from plan to report, read from top to bottom.

    prompts -> model -> evaluate base -> steps (generate, judge, learn) -> evaluate trained -> adapter, summary, report

Nothing is written before the prompts are known to be good; `summary.json` is written last and says how the run ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tanren.common.config import dump_toml
from tanren.common.console import Console
from tanren.common.errors import ExitCode
from tanren.common.evaluators import Evaluator, find_evaluator, find_report_writer
from tanren.common.ground import check_same_config, check_same_ground
from tanren.common.interruption import say_stopped, watch_for_interruption
from tanren.common.models.device import set_cuda_variables
from tanren.common.run import (
    RunDirectory,
    create_run,
    open_run,
    refuse_existing,
    write_atomically,
)
from tanren.common.session import failure_recorded, recorded
from tanren.common.tracking import Tracker, open_tracker
from tanren.grpo.engine import answers_of
from tanren.grpo.ground import MAY_DIFFER_ON_RESUME, SAME_ON_RESUME
from tanren.grpo.memory import settle_memory, take_recorded
from tanren.grpo.plan import Plan
from tanren.grpo.summary import make_summary, write_views

if TYPE_CHECKING:
    from tanren.grpo.prepare import Prepared

BASE, TRAINED = "base", "trained"
ENDS = ("first_reward", "last_reward")
REWARDS_LOG = "rewards.log"
"""In a run directory: what the code of rewards printed."""


def run_job(plan: Plan, *, resume: str | None) -> int:
    """Run (or resume) the job; return the exit code. Raises UserError and MachineError with one message each."""
    console = Console()
    config = plan.config
    console.line(
        f"train-grpo {config.name}: {plan.source.name}, {len(plan.rows)} prompts, {len(plan.heldout_rows)} held out"
    )
    for warning in plan.warnings:
        console.warn(warning)
    earlier = open_run(resume, config.output.runs, config.name) if resume else None
    if earlier is not None:
        plan = take_recorded(plan, earlier)
        check_same_config(plan.loaded.values(), earlier, MAY_DIFFER_ON_RESUME)
    else:
        refuse_existing(config.output.run_dir)  # told now, not after a minute of loading
    evaluator_class = find_evaluator() if config.evaluation.enabled else None

    set_cuda_variables()
    with console.phase("import", "torch, transformers, peft"):
        from tanren.grpo.prepare import prepare
    prepared = prepare(plan, console)
    plan = settle_memory(plan, prepared.prompts, prepared.engine, prepared.device, console)
    run = earlier or create_run(config.output.run_dir, config.output.runs, config.name)
    with recorded(run, console):
        evaluator = None
        if evaluator_class is not None and plan.pack is not None:
            evaluator = evaluator_class(plan.pack, plan.heldout_rows, config.evaluation, console)
        tracker = open_tracker(config.tracking, config.output.runs, config, run, console)
        begun = time.time()

        def failed(status: str) -> dict[str, Any]:
            write_views(run, config)
            return make_summary(plan, run, console, status, begun, {})

        with failure_recorded(run, tracker, failed):
            return _run(plan, prepared, run, console, evaluator, tracker, resumed=earlier is not None)


def _run(
    plan: Plan,
    prepared: Prepared,
    run: RunDirectory,
    console: Console,
    evaluator: Evaluator | None,
    tracker: Tracker,
    *,
    resumed: bool,
) -> int:
    """Do the run in its directory: evaluate, train, evaluate, save, report."""
    from tanren.common.adapter import save_adapter
    from tanren.common.chat import template_hash
    from tanren.grpo.ground import describe_ground
    from tanren.grpo.method import load_base, make_trainable
    from tanren.grpo.prepare import make_loop, open_rewards

    config, begun = plan.config, time.time()
    loaded, attention = load_base(plan, prepared, console)
    template = template_hash(prepared.tokenizer)
    environment = describe_ground(plan, prepared, attention, loaded, template)
    if resumed:
        check_same_ground(run, environment, console, SAME_ON_RESUME)
    else:
        write_atomically(run.config, dump_toml(plan.loaded.values(), plan.loaded.origins))
        run.write_json(run.environment, environment)
    # What generates by weights of its own answers the evaluations, too: it is faster, and its base is the model with a fresh adapter.
    beside = prepared.engine.name != "transformers"
    if evaluator is not None and not beside:
        evaluator.evaluate(BASE, loaded.model, prepared.tokenizer, run.evaluation)

    model, shared = make_trainable(plan, prepared, loaded, attention, console)
    with open_rewards(plan, run.path / REWARDS_LOG) as rewards:
        loop = make_loop(
            plan,
            prepared,
            model,
            rewards,
            run,
            console,
            tracker,
            packs=attention.packs,
            shared=shared,
        )
        answers = answers_of(loop.engine, model) if beside else None
        with closing(loop.engine):
            if evaluator is not None and beside:
                evaluator.evaluate(BASE, model, prepared.tokenizer, run.evaluation, answers)
            with watch_for_interruption(console) as interruption:
                done = loop.train(interruption, resumed=resumed)
            write_views(run, config)
            if interruption.status is not None:
                tracker.finish({}, "KILLED")
                run.write_json(run.summary, make_summary(plan, run, console, interruption.status, begun, {}))
                return say_stopped(interruption, done, config.train.steps, run, console)
            with console.phase("save adapter", str(run.adapter)):
                save_adapter(
                    model,
                    run,
                    source=plan.source,
                    loaded=loaded,
                    parents=plan.parents(prepared.device.dtype),
                    recipe=config.name,
                    rank=config.lora.rank,
                    template=template,
                    device=prepared.device,
                )
            comparison: Mapping[str, Any] = {}
            if evaluator is not None:
                evaluator.evaluate(TRAINED, model, prepared.tokenizer, run.evaluation, answers)
                comparison = evaluator.compare(BASE, TRAINED)
    summary = make_summary(plan, run, console, "done", begun, comparison)
    tracker.finish({name: summary[name] for name in ENDS if summary[name] is not None}, "FINISHED")
    run.write_json(run.summary, summary)
    _tell(run, console, summary, "" if evaluator is None else evaluator.table(BASE, TRAINED))
    return ExitCode.DONE


def _tell(run: RunDirectory, console: Console, summary: Mapping[str, Any], table: str) -> None:
    """Write the report, and say how the run went and where its results are."""
    with console.phase("write report"):
        page = find_report_writer()(run)
    if table:
        console.text(table)
    for line in summary["account"]:
        console.line(line)
    console.line(f"adapter: {run.adapter}")
    console.line(f"report: {page}")
