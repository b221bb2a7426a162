"""One run from plan to report, read from top to bottom.

    rows -> samples -> model -> evaluate base -> LoRA training -> evaluate trained -> adapter, summary, report

Nothing is written before the rows are known to be good; `summary.json` is written last and says how the run ended.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Mapping
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
    refuse_existing,
    write_atomically,
    write_steps_csv,
)
from tanren.sft.coverage import check_before_loading
from tanren.sft.interruption import watch_for_interruption
from tanren.sft.memory import Settled, measured_memory, settle_memory, take_recorded
from tanren.sft.plan import Plan
from tanren.sft.summary import final_numbers, make_summary, verdict_line
from tanren.sft.unsloth_engine import import_unsloth, prove_packing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.attention import Choice
    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel
    from tanren.sft.store import TrainingSamples
    from tanren.sft.tracking import Tracker
    from tanren.sft.trainer import SftTrainer
    from tanren.sft.training_data import TrainingData

BASE, TRAINED = "base", "trained"
# Settings that may differ between a run and its resumption: they do not touch the numbers.
# A parent may have been moved: its hash is compared, not its path.
MAY_DIFFER_ON_RESUME = ("output.", "checkpoint.", "tracking.", "model.parent")


@dataclass(frozen=True)
class Prepared:
    """What stands before anything is written: tokenizer, device, and the rows as good samples."""

    tokenizer: PreTrainedTokenizerBase
    device: DevicePlan
    data: TrainingData

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

    prepared = _prepare(plan, console)
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


def _prepare(plan: Plan, console: Console) -> Prepared:
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
        from tanren.sft.training_data import make_training_data
    device = plan_device(config.model)
    console.line(f"device: {device.device}, {device.dtype} ({device.reason}), {device.threads} CPU threads")
    _check_named_attention(plan, device)
    if config.train.method == "lora":
        require_bitsandbytes(config.model.quantisation)
        with console.phase("check what the adapter reaches", "without weights"):
            check_before_loading(plan.source, config.lora)
    with console.phase("load tokenizer", _first_time(plan)):
        tokenizer = load_tokenizer(plan.source)
    _check_template(plan, template_hash(tokenizer))
    with console.phase("render and tokenise", f"{sum(plan.selection.sizes)} rows"):
        data = make_training_data(tokenizer, plan)
    for line in data.lines():
        console.line(line)
    return Prepared(tokenizer, device, data)


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
    from tanren.sft.method import load_base, make_trainable, save_trained

    plan = settled.plan
    config, begun = plan.config, time.time()
    loaded = load_base(plan, prepared.device, console)
    attention = _choose_attention(plan, loaded, console)
    template = template_hash(prepared.tokenizer)
    environment = _environment(plan, prepared, attention, loaded, template) | {"memory_plan": settled.record()}
    if resumed:
        _check_same_ground(run, environment, console)
    else:
        write_atomically(run.config, dump_toml(plan.loaded.values(), plan.loaded.origins))
        run.write_json(run.environment, environment)
        prepared.data.dropped.write(run.path / "dropped.jsonl")
    if evaluator is not None:
        evaluator.evaluate(BASE, loaded.model, prepared.tokenizer, run.evaluation)

    model, trainer_class = make_trainable(plan, loaded, console)
    assert config.train.micro_batch_tokens != AUTO, "the plan chooses before there is a model"
    steps = plan.lay_out(prepared.samples, config.train.micro_batch_tokens if attention.packs else 1)
    with watch_for_interruption(console) as interruption:
        trainer = trainer_class(
            model=model,
            steps=steps,
            config=config,
            run=run,
            console=console,
            tracker=tracker,
            interruption=interruption,
            device=prepared.device.device,
        )
        memory = _train(trainer, settled, run, console, resumed=resumed)
    write_steps_csv(run.metrics, run.path / "metrics.csv")
    done = trainer.state.global_step
    if interruption.exit_code is not None:
        status = "interrupted" if interruption.exit_code is ExitCode.INTERRUPTED else "preempted"
        tracker.finish({}, "KILLED")
        run.write_json(run.summary, make_summary(plan, run, console, status, begun, {}, memory))
        console.line(
            f"{status} after step {done} of {len(steps)}; to continue: the same command with --resume {run.path}"
        )
        return interruption.exit_code

    saved = save_trained(model, prepared.tokenizer, run, plan, loaded, template, prepared.device, console)
    comparison: Mapping[str, Any] = {}
    if evaluator is not None:
        evaluator.evaluate(TRAINED, model, prepared.tokenizer, run.evaluation)
        comparison = evaluator.compare(BASE, TRAINED)
    tracker.finish(final_numbers(comparison), "FINISHED")
    run.write_json(run.summary, make_summary(plan, run, console, "done", begun, comparison, memory))
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


def _choose_attention(plan: Plan, loaded: LoadedModel, console: Console) -> Choice:
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
        if recorded.get(name) != now.get(name) and not name.startswith(MAY_DIFFER_ON_RESUME)
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


def _train(
    trainer: SftTrainer, settled: Settled, run: RunDirectory, console: Console, *, resumed: bool
) -> Mapping[str, Any]:
    """Train; return the memory that was planned beside what was used."""
    import torch

    steps = trainer.args.max_steps
    checkpoint: str | None = None
    if resumed:
        step = run.checkpoint_steps()[-1]
        console.record("resume", {"step": step})
        console.line(f"resuming after step {step} of {steps}")
        checkpoint = str(run.checkpoint(step))
    with console.phase("train", f"{steps} steps"), console.bar("train", steps, "step") as bar:
        trainer.bar = bar
        trainer.start_clock()
        torch.use_deterministic_algorithms(True)
        with measured_memory(settled, console) as memory:
            try:
                trainer.train(resume_from_checkpoint=checkpoint)
            finally:
                torch.use_deterministic_algorithms(False)
    return memory


def _environment(
    plan: Plan, prepared: Prepared, attention: Choice, loaded: LoadedModel, template: str
) -> dict[str, Any]:
    return describe_environment() | {
        "device": asdict(prepared.device),
        "attention": {"kernel": attention.kernel, "reason": attention.reason, "rejected": dict(attention.rejected)},
        "attention_proof": attention.proof,
        "model": loaded.provenance,
        "parents": [link.record(number) for number, link in enumerate(plan.parents(prepared.device.dtype), start=1)],
        "chat_template_hash": template,
        "samples_sha256": prepared.data.sha256(),
        "data": prepared.data.record(),
    }


def _check_same_ground(run: RunDirectory, environment: Mapping[str, Any], console: Console) -> None:
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
