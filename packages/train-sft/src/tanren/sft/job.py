"""One run from plan to report, read from top to bottom.

    rows -> samples -> model -> evaluate base -> LoRA training -> evaluate trained -> adapter, summary, report

Nothing is written before the rows are known to be good; `summary.json` is written last and says how the run ended.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tanren.common.config import AUTO, dump_toml, flatten
from tanren.common.console import Console
from tanren.common.errors import ExitCode, UserError
from tanren.common.evaluators import Evaluator, find_evaluator, find_report_writer
from tanren.common.models.device import set_cuda_variables
from tanren.common.models.quantised import require_bitsandbytes
from tanren.common.run import (
    MetricsWriter,
    RunDirectory,
    create_run,
    describe_environment,
    held,
    open_run,
    read_steps,
    read_validations,
    refuse_existing,
    write_atomically,
    write_csv,
)
from tanren.sft.cli import COMMAND
from tanren.sft.coverage import check_before_loading
from tanren.sft.interruption import Interruption, watch_for_interruption
from tanren.sft.memory import Settled, settle_memory, take_recorded
from tanren.sft.plan import Plan
from tanren.sft.summary import final_numbers, make_summary, verdict_line
from tanren.sft.unsloth_engine import import_unsloth, prove_packing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.attention import Choice
    from tanren.common.chat import Sample
    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel
    from tanren.sft.step_evaluation import StepEvaluation
    from tanren.sft.store import TrainingSamples
    from tanren.sft.tracking import Tracker
    from tanren.sft.trainer import SftTrainer
    from tanren.sft.training_data import TrainingData

BASE, TRAINED = "base", "trained"
# Settings that may differ between a run and its resumption: they do not touch the numbers.
# A parent may have been moved: its hash is compared, not its path.
MAY_DIFFER_ON_RESUME = re.compile(r"(output|tracking)\..*|checkpoint\.(every_steps|keep)|model\.parent")


@dataclass(frozen=True)
class Prepared:
    """What stands before anything is written: tokenizer, device, and the rows as good samples."""

    tokenizer: PreTrainedTokenizerBase
    device: DevicePlan
    data: TrainingData
    validation: Sequence[Sample]
    """Never trained on; none where no validation is asked for."""

    @property
    def samples(self) -> TrainingSamples:
        """What is trained on."""
        return self.data.training


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
        check_same_config(plan.loaded.values(), earlier)
    else:
        refuse_existing(config.output.run_dir)  # told now, not after a minute of loading
    evaluator_class = find_evaluator() if plan.pack and config.evaluation.enabled else None

    prepared = prepare(plan, console)
    settled = settle_memory(plan, prepared.samples, prepared.device, console)
    plan = settled.plan
    run = earlier or create_run(config.output.run_dir, config.output.runs, config.name)
    with held(run), run.log.open("a", encoding="utf-8") as console.log:
        metrics = MetricsWriter(run.metrics)
        console.attach(metrics)
        console.line(f"run directory: {run.path}")
        evaluator = None
        if evaluator_class is not None and plan.pack is not None:
            evaluator = evaluator_class(plan.pack, plan.heldout_rows, config.evaluation, console)
        tracker = _open_tracker(plan, run, console)
        begun = time.time()
        try:
            code = _run(settled, prepared, run, console, evaluator, tracker, resumed=earlier is not None)
        except BaseException as error:
            with suppress(Exception):  # the error itself is what the user must hear
                status = "failed" if isinstance(error, Exception) else "interrupted"
                summary = make_summary(plan, run, console, status, begun, {})
                run.write_json(run.summary, summary | {"error": f"{type(error).__name__}: {error}"})
                tracker.finish({}, "FAILED")
            raise
        metrics.close()
    return code


def prepare(plan: Plan, console: Console) -> Prepared:
    """Import the libraries, choose the device, and turn the rows into samples."""
    config = plan.config
    set_cuda_variables()
    if config.train.engine == "unsloth":
        with console.phase("import", "unsloth"):
            import_unsloth()
    with console.phase("import", "torch, transformers, peft"):
        import tanren.sft.trainer  # noqa: F401 (the heavy import, paid where it is announced)
        from tanren.common.chat import template_hash
        from tanren.common.models.device import plan_device
        from tanren.common.models.load import load_tokenizer
        from tanren.sft.optimizer import check_optimizer
        from tanren.sft.training_data import make_training_data
    device = plan_device(config.model)
    console.line(f"device: {device.device}, {device.dtype} ({device.reason}), {device.threads} CPU threads")
    _check_named_attention(plan, device)
    check_optimizer(config.optim, device.device)
    if config.train.method == "lora":
        require_bitsandbytes(config.model.quantisation)
        with console.phase("check what the adapter reaches", "without weights"):
            check_before_loading(plan.source, config.lora)
    with console.phase("load tokenizer", _first_time(plan)):
        tokenizer = load_tokenizer(plan.source)
    _check_template(plan, template_hash(tokenizer))
    rows = plan.selection.trained
    with console.phase("render and tokenise", f"{rows} rows"), console.bar("tokenise", rows, "row") as bar:
        data = make_training_data(tokenizer, plan, bar)
    for line in data.lines():
        console.line(line)
    return Prepared(tokenizer, device, data, _validation_samples(plan, data, tokenizer, console))


def _validation_samples(
    plan: Plan, data: TrainingData, tokenizer: PreTrainedTokenizerBase, console: Console
) -> Sequence[Sample]:
    """Return what the loss is taken on, if it is asked for: what the data keeps for it, or the task pack's held-out rows.

    A row without a token to learn has no loss: it is left out, and counted.
    """
    if not plan.config.validation.every_steps:
        return ()
    if len(data.validation):
        return data.validation
    from tanren.sft.samples import make_samples

    settings = plan.config.data.model_copy(update={"fully_masked": "drop"})
    try:
        samples, report = make_samples(tokenizer, plan.heldout_rows, settings)
    except UserError as error:
        raise UserError(f"validation: {error}") from None
    for line in report.lines():
        console.line(f"validation: {line}")
    return samples


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
    from tanren.sft.loop import make_trainer, train
    from tanren.sft.method import load_base, make_trainable, save_trained
    from tanren.sft.validation import finish_validation

    plan = settled.plan
    begun = time.time()
    loaded = load_base(plan, prepared.device, console)
    attention = choose_attention(plan, loaded, console)
    template = template_hash(prepared.tokenizer)
    environment = describe_ground(plan, prepared, attention, loaded, template) | {"memory_plan": settled.record()}
    if resumed:
        check_same_ground(run, environment, console)
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
            step_evaluation=_step_evaluation(plan, prepared, run, console),
        )
        checkpoint = run.checkpoint(run.checkpoint_steps()[-1]) if resumed else None
        memory = train(trainer, settled, console, checkpoint)
    write_csv(read_steps(run.metrics), run.path / "metrics.csv")
    if trainer.between.validation is not None:
        write_csv(read_validations(run.metrics), run.path / "validation.csv")
    if interruption.status is not None:
        tracker.finish({}, "KILLED")
        run.write_json(run.summary, make_summary(plan, run, console, interruption.status, begun, {}, memory))
        return _stopped(interruption, trainer, run, console)

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


def _check_template(plan: Plan, template: str) -> None:
    """Refuse a parent that learned with another chat template: its prompts were others."""
    if plan.parent is not None and plan.parent.template != template:
        raise UserError(
            f"model.parent {plan.config.model.parent!r} was trained with the chat template {plan.parent.template}, "
            f"{plan.source.name} has {template}: give the model the template that it had then"
        )


def _check_named_attention(plan: Plan, device: DevicePlan) -> None:
    """Refuse a kernel that cannot run here before anything is loaded; whether it is right is proven on the model."""
    named = plan.config.train.attention
    if named == AUTO:
        return
    from tanren.common.attention import gpu_facts, installed_kernels, select_attention, traits_of
    from tanren.common.plan.trace import read_shape

    traits = traits_of(read_shape(plan.source).config)
    select_attention(gpu_facts(device.device), installed_kernels(), traits, dtype=device.dtype, named=named)


def choose_attention(plan: Plan, loaded: LoadedModel, console: Console) -> Choice:
    """Return the kernel of training, proven on this model, and say why it was chosen."""
    from tanren.common.attention.training import choose_training_attention

    named = plan.config.train.attention
    with console.phase("prove attention", named):
        if plan.config.train.engine == "unsloth":
            choice = prove_packing(loaded.model, str(loaded.model.device))
        else:
            choice = choose_training_attention(loaded.model, named)
    for line in choice.lines():
        console.line(line)
    return choice


def _first_time(plan: Plan) -> str:
    """Say so when the packaged weights are converted first, which takes a while."""
    from tanren.common.models.packaged import is_converted

    if plan.source.kind == "packaged" and not is_converted(plan.source):
        return f"{plan.source.name}; first use: converting the packaged weights (about 20 s, once)"
    return plan.source.name


def check_same_config(values: Mapping[str, Any], run: RunDirectory) -> None:
    """Refuse to resume with other settings: the result would be neither the old run nor a new one."""
    recorded, now = flatten(run.read_config()), flatten(tomllib.loads(dump_toml(values, {})))
    differing = [
        name
        for name in sorted(recorded.keys() | now.keys())
        if recorded.get(name) != now.get(name) and not MAY_DIFFER_ON_RESUME.fullmatch(name)
    ]
    if differing:
        told = "\n".join(f"  {name}: the run has {recorded.get(name)!r}, now {now.get(name)!r}" for name in differing)
        raise UserError(
            f"{run.path} cannot be resumed with other settings:\n{told}\nresume with the same recipe and flags (its config.toml is a recipe)"
        )


def _open_tracker(plan: Plan, run: RunDirectory, console: Console) -> Tracker:
    from tanren.sft.tracking import MlflowTracker, NoTracker

    if not plan.config.tracking.mlflow:
        return NoTracker()
    with console.phase("open MLflow", "off with --tracking.no-mlflow"):
        tracker = MlflowTracker(plan.config.tracking, plan.config.output.runs.expanduser(), run.label, plan.config)
    console.line(f"MLflow: {tracker.uri} (look with: mlflow ui --backend-store-uri {tracker.uri})")
    return tracker


def _stopped(interruption: Interruption, trainer: SftTrainer, run: RunDirectory, console: Console) -> ExitCode:
    """Say how to go on after a signal; return the exit code."""
    status, done, steps = interruption.status, trainer.state.global_step, trainer.args.max_steps
    if not run.checkpoint_steps():
        console.line(f"{status} before step 1: there is no checkpoint, start again")
        return ExitCode.PREEMPTED if status == "preempted" else ExitCode.INTERRUPTED
    console.line(f"{status} after step {done} of {steps}; to continue: the same command with --resume {run.path}")
    return interruption.exit_code


def _step_evaluation(plan: Plan, prepared: Prepared, run: RunDirectory, console: Console) -> StepEvaluation | None:
    evaluation = plan.config.evaluation
    if not evaluation.every_steps or plan.pack is None:
        return None
    from tanren.sft.step_evaluation import StepEvaluation, rows_of_steps

    rows = rows_of_steps(plan.heldout_rows, evaluation, plan.config.seed)
    return StepEvaluation(
        find_evaluator()(plan.pack, rows, evaluation, console),
        prepared.tokenizer,
        run.evaluation / "steps",
        every=evaluation.every_steps,
        steps=plan.steps(prepared.samples.sizes),
    )


def describe_ground(
    plan: Plan, prepared: Prepared, attention: Choice, loaded: LoadedModel, template: str
) -> dict[str, Any]:
    """Return what a run stands on, as `environment.json` records it."""
    return describe_environment() | {
        "command": COMMAND.prog,
        "device": asdict(prepared.device),
        "attention": {"kernel": attention.kernel, "reason": attention.reason, "rejected": dict(attention.rejected)},
        "attention_proof": attention.proof,
        "model": loaded.provenance,
        "parents": [link.record(number) for number, link in enumerate(plan.parents(prepared.device.dtype), start=1)],
        "chat_template_hash": template,
        "samples_sha256": prepared.data.sha256(),
        "data": prepared.data.record(),
    }


def check_same_ground(run: RunDirectory, environment: Mapping[str, Any], console: Console) -> None:
    """Refuse to resume on other data or other weights; warn where only the numerics may part."""
    recorded = json.loads(run.environment.read_text(encoding="utf-8"))
    for name in ("samples_sha256", "model", "parents", "chat_template_hash"):
        if recorded[name] != environment[name]:
            raise UserError(
                f"{run.path} cannot be resumed: {name} was {recorded[name]!r}, now {environment[name]!r}; "
                "give it the data and the model that it began with, or start a new run"
            )
    for name in ("device", "attention", "packages", "cpu", "gpu"):
        if recorded.get(name) != environment.get(name):
            console.warn(
                f"resumed on other ground, so not bit for bit: {name} was {recorded.get(name)}, now {environment.get(name)}"
            )
