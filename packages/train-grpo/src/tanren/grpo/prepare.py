"""What stands before anything is written, tokenizer, device and good prompts, and the loop put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tanren.common.chat import template_hash
from tanren.common.console import Console
from tanren.common.coverage import check_before_loading
from tanren.common.models.decoding import stop_token_ids
from tanren.common.models.device import DevicePlan, plan_device
from tanren.common.models.load import load_tokenizer
from tanren.common.models.packaged import loading
from tanren.common.models.quantised import require_bitsandbytes
from tanren.common.optimizer import check_optimizer
from tanren.common.parent import check_parent_template
from tanren.common.plan.trace import read_shape
from tanren.common.run import RunDirectory
from tanren.common.tracking import Tracker
from tanren.grpo.ahead import Ahead
from tanren.grpo.collector import Collector
from tanren.grpo.config import Truncated
from tanren.grpo.engine import sampling_of
from tanren.grpo.engines import EngineChoice, choose_engine, open_engine
from tanren.grpo.loop import Loop
from tanren.grpo.optimizer import make_optimizer
from tanren.grpo.plan import Plan
from tanren.grpo.prompts import Prompt, difficulties_of, make_prompts
from tanren.grpo.rewards import Rewards
from tanren.grpo.structured import check_room
from tanren.grpo.trainer import GrpoTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prepared:
    """Tokenizer, device, and the rows as good prompts."""

    tokenizer: PreTrainedTokenizerBase
    device: DevicePlan
    engine: EngineChoice
    prompts: list[Prompt]


def prepare(plan: Plan, console: Console) -> Prepared:
    """Choose the device, and turn the rows into prompts."""
    config = plan.config
    device = plan_device(config.model)
    console.line(f"device: {device.device}, {device.dtype} ({device.reason}), {device.threads} CPU threads")
    engine = choose_engine(config, device.device, device.dtype)
    check_optimizer(config.optim, device.device)
    require_bitsandbytes(config.model.quantisation)
    with console.phase("check what the adapter reaches", "without weights"):
        check_before_loading(plan.source, config.lora, config.train.experts)
    with console.phase("load tokenizer", loading(plan.source)):
        tokenizer = load_tokenizer(plan.source, config.model.chat_template)
    check_room(plan.structured, tokenizer, config.rollout.max_new_tokens)
    check_parent_template(plan.parent, config.model.parent, plan.source, template_hash(tokenizer))
    shape = read_shape(plan.source).config.get_text_config()
    with console.phase("render and tokenise", f"{len(plan.rows)} prompts"):
        prompts = make_prompts(
            tokenizer,
            plan.rows,
            max_tokens=config.rollout.max_prompt_tokens,
            positions=getattr(shape, "max_position_embeddings", None),
            new_tokens=config.rollout.max_new_tokens,
        )
    difficulties_of(prompts, config.data.curriculum)  # a row without its number is told before anything is written
    lengths = sorted(len(prompt.token_ids) for prompt in prompts)
    console.line(f"prompts: {lengths[0]} to {lengths[-1]} tokens, half of them up to {lengths[len(lengths) // 2]}")
    return Prepared(tokenizer, device, engine, prompts)


def open_rewards(plan: Plan, log: Path) -> Rewards:
    """Return the rewards of a run; what their code prints goes to `log`."""
    rollout = plan.config.rollout
    cut: dict[Truncated, Literal["exclude", "score"] | float] = {
        "keep": "score",
        "mask": "exclude",
        "penalise": rollout.truncated_reward,
    }
    return Rewards(plan.config.rewards, plan.pack, truncated=cut[rollout.truncated], log=log)


def make_loop(
    plan: Plan,
    prepared: Prepared,
    model: Any,
    rewards: Rewards,
    run: RunDirectory,
    console: Console,
    tracker: Tracker,
    *,
    packs: bool,
    shared: bool,
    until: int | None = None,
) -> Loop:
    """Return the loop of a run, or of its steps up to `until`.

    `packs` says whether completions may share a pass, `shared` whether also their prompt.
    """
    config, tokenizer = plan.config, prepared.tokenizer
    engine = open_engine(prepared.engine, config, model, tokenizer, prepared.prompts, plan.heldout_rows, run, console)
    sampling = sampling_of(config.rollout, stop_token_ids(model.get_base_model(), tokenizer), plan.structured)
    collector = Collector(config, prepared.prompts, engine, sampling, rewards, tokenizer)
    trainer = GrpoTrainer(model, config, make_optimizer(model, config), packs=packs, shared=shared)
    ahead = Ahead(collector) if config.rollout.ahead else None
    return Loop(config, model, collector, engine, trainer, run, console, tracker, ahead, until)
