"""Settings that do not fit together, or that would have no effect in this run: each is an error or a warning that names it."""

from __future__ import annotations

from tanren.common.config import Loaded
from tanren.common.errors import UserError
from tanren.grpo.config import GrpoConfig, StructuredConfig
from tanren.grpo.engines import check_server


def check_effects(loaded: Loaded[GrpoConfig]) -> tuple[str, ...]:
    """Refuse settings that would have no effect, and numbers that do not divide; return warnings."""
    config, origins = loaded.config, loaded.origins
    check_server(config)
    _check_ahead(config)
    _check_division(config)
    train, rollout, loss = config.train, config.rollout, config.loss
    if config.model.quantisation == "fp8":
        raise UserError(
            "model.quantisation = fp8 has not been tried with generation from the trained model; take nf4 or int8, or leave it at none"
        )
    off_policy = train.updates_per_step > 1
    clips = "train.updates_per_step = 1: the policy that learns is the one that sampled, so no ratio differs from 1"
    idle = [
        ("loss.clip_low", off_policy, clips),
        ("loss.clip_high", off_policy, clips),
        ("loss.clip_low", loss.kind != "cispo", "loss.kind = cispo, which has no lower limit"),
        ("loss.correction_cap", loss.correction != "none", "loss.correction = none"),
        ("rollout.truncated_reward", rollout.truncated == "penalise", f"rollout.truncated = {rollout.truncated}"),
        ("optim.min_lr_ratio", config.optim.schedule != "constant", "optim.schedule = constant"),
        ("tracking.mlflow_uri", config.tracking.mlflow, "tracking.mlflow off"),
        ("tracking.experiment", config.tracking.mlflow, "tracking.mlflow off"),
    ]
    idle += [
        (name, False, f"rollout.engine = {rollout.engine}")
        for name in sorted(origins)
        if (name.startswith("vllm.") and rollout.engine in ("transformers", "vllm-server"))
        or (name.startswith("server.") and rollout.engine != "vllm-server")
        or (
            name in ("rollout.batch_size", "evaluation.batch_size", "evaluation.attention")
            and rollout.engine in ("vllm", "vllm-server")
        )
    ]
    for name, used, told in idle:
        if name in origins and not used:
            raise UserError(f"{name} ({origins[name]}) has no effect with {told}; remove one of the two")
    return _warnings(config)


def _check_ahead(config: GrpoConfig) -> None:
    """Raise UserError where completions cannot be generated while the model learns, or are taken for newer than they are."""
    if not config.rollout.ahead:
        return
    if config.rollout.engine != "vllm-server":
        raise UserError(
            f"rollout.ahead = 1 needs an engine that works beside the trainer: vllm-server, found rollout.engine = {config.rollout.engine}; "
            "write rollout.ahead = 0, or start a server (docs/train-grpo.md)"
        )
    if config.loss.correction == "none":
        raise UserError(
            "rollout.ahead = 1: completions are one step old, and with loss.correction = none they are taken for those of the newest weights; "
            'write loss.correction = "token" or "sequence"'
        )


def _check_division(config: GrpoConfig) -> None:
    """Raise UserError, with numbers that would do, where the prompts of a step are no whole share for each update."""
    prompts, updates = config.rollout.prompts_per_step, config.train.updates_per_step
    if prompts % updates:
        fitting = [number for number in range(1, prompts + 1) if prompts % number == 0]
        more = -(-prompts // updates) * updates
        raise UserError(
            f"rollout.prompts_per_step = {prompts} cannot be shared among train.updates_per_step = {updates} updates: every update "
            f"takes whole groups; write updates_per_step = {' or '.join(map(str, fitting))}, or prompts_per_step = {more}"
        )


def _warnings(config: GrpoConfig) -> tuple[str, ...]:
    rollout, found = config.rollout, []
    if rollout.completions_per_prompt == 1:
        found.append(
            "rollout.completions_per_prompt = 1: a completion alone has nothing to be compared with, so every advantage is 0 "
            "and nothing is learned; write at least 2"
        )
    other = [
        f"{name} = {value:g}"
        for name, value, standard in (
            ("temperature", rollout.temperature, 1.0),
            ("top_p", rollout.top_p, 1.0),
            ("top_k", rollout.top_k, 0),
            ("min_p", rollout.min_p, 0.0),
        )
        if value != standard
    ]
    if other:
        found.append(
            f"rollout.{', rollout.'.join(other)}: completions are sampled from another distribution than the one that is trained "
            "(the model at temperature 1); the gradient is that of the model, taken where the sampling went"
        )
    if rollout.structured != StructuredConfig():
        found.append(
            "rollout.structured: completions are sampled from the words that their form allows, which is another distribution than the "
            "one that is trained (the model with all words); what the form forces is learned like what the model chose, and the "
            "evaluation generates without the form"
        )
    return tuple(found)
