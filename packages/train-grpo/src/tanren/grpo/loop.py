"""The training loop, read from top to bottom: collect, log, learn, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.console import Console
from tanren.common.errors import MachineError
from tanren.common.interruption import Interruption
from tanren.common.run import RunDirectory
from tanren.common.times import clock
from tanren.common.tracking import Tracker
from tanren.grpo.ahead import Ahead
from tanren.grpo.collector import Collector
from tanren.grpo.config import GrpoConfig
from tanren.grpo.engine import Engine
from tanren.grpo.generations import GenerationsWriter
from tanren.grpo.rollout import Rollout
from tanren.grpo.state import restore_checkpoint, save_checkpoint
from tanren.grpo.summary import SPENT
from tanren.grpo.trainer import GrpoTrainer


@dataclass
class Loop:
    """A run's steps."""

    config: GrpoConfig
    model: Any
    collector: Collector
    engine: Engine
    trainer: GrpoTrainer
    run: RunDirectory
    console: Console
    tracker: Tracker
    ahead: Ahead | None = None
    """Collects the next step's completions while the model learns; None: each step collects its own first."""
    until: int | None = None
    """Stop after this step with a checkpoint; None: after the last one."""

    def train(self, interruption: Interruption, *, resumed: bool) -> int:
        """Run the steps that are left, until one is noted to be the last; return the last one that was done."""
        steps, last = self.config.train.steps, self.until or self.config.train.steps
        generations = GenerationsWriter(self.run.path)
        done = self._take_up(generations) if resumed else 0
        try:
            with self.console.phase("train", f"{steps} steps"), self.console.bar("train", steps, "step") as bar:
                begun, first = time.perf_counter(), done
                for step in range(done + 1, last + 1):
                    if interruption.status is not None:
                        break
                    values = self._step(step, generations)
                    done = step
                    left = (time.perf_counter() - begun) / (step - first) * (steps - step)
                    bar.report(step, f"{told(values)}  {left:.0f} s left, done about {clock(left)}")
                    every = self.config.checkpoint.every_steps
                    if every and step % every == 0 and step < steps:
                        self._save(step)
            # A signal may come at any time: what has been done by then is kept.
            stopped = interruption.status is not None or self.until is not None
            if stopped and done and done not in self.run.checkpoint_steps():
                self._save(done)
        finally:
            generations.close()
            if self.ahead is not None:
                self.ahead.close()
        return done

    def _step(self, step: int, generations: GenerationsWriter) -> Mapping[str, Any]:
        """Do one step; its completions are on disk before anything is learned from them.

        Raises MachineError, with what would help, where the GPU has no memory left.
        """
        begun = time.perf_counter()
        with _told_out_of_memory(step, "generating", "rollout.batch_size or rollout.max_new_tokens"):
            rollout = self._collect(step)
        updates = self.trainer.lay_out(rollout)
        generations.write(step, rollout, updates)
        sentence = rollout.advantages.sentence()
        if sentence and rollout.advantages.without_signal == len(rollout.advantages.values):
            self.console.line(f"step {step}: {sentence}")
        with _told_out_of_memory(step, "training", "train.micro_batch_tokens, or set train.gradient_checkpointing"):
            learned = self.trainer.learn(updates, step)
        values = {
            "step": step,
            **rollout.values(),
            **learned,
            "micro_batches": sum(len(update.batches) for update in updates),
            "prompts_drawn": self.collector.order.drawn,
            **{f"seconds_{name}": spent for name, spent in rollout.seconds.items()},
        }
        seconds = time.perf_counter() - begun
        values["tokens"] = _tokens(rollout)
        values["seconds"] = seconds
        values["seconds_other"] = seconds - sum(values[f"seconds_{name}"] for name in SPENT if name != "other")
        values["why_nothing"] = sentence
        self.console.record("step", values)
        self.tracker.log_step(step, {name: one for name, one in values.items() if isinstance(one, int | float)})
        return values

    def _collect(self, step: int) -> Rollout:
        """Return the completions of a step, and with `ahead` have those of the next one begun."""
        if self.ahead is None:
            return self.collector.collect(self.model)
        return self.ahead.collect(self.model, last=step == self.config.train.steps)

    def _save(self, step: int) -> None:
        with self.console.phase("save checkpoint", f"step {step}"):
            save_checkpoint(self.run, step, self.model, self.trainer, self.collector, self.engine, self.ahead)
            self.run.keep_checkpoints(self.config.checkpoint.keep)

    def _take_up(self, generations: GenerationsWriter) -> int:
        done = self.run.checkpoint_steps()[-1]
        restore_checkpoint(self.run.checkpoint(done), self.model, self.trainer, self.collector, self.engine, self.ahead)
        self.console.record("resume", {"step": done})
        generations.resume(done)
        self.console.line(f"resuming after step {done} of {self.config.train.steps}")
        return done


@contextmanager
def _told_out_of_memory(step: int, doing: str, lower: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"step {step}, {doing}: the GPU has no memory left: {str(error).splitlines()[0]}; lower {lower}; to go on: --resume"
        ) from None


def told(values: Mapping[str, Any]) -> str:
    """Say a step in one line."""
    reward = values["reward"]
    facts = [f"reward {reward:.3f}" if reward is not None else "no reward", f"loss {values['loss']:+.4f}"]
    if values["parse_rate"] is not None:
        facts.append(f"parsed {100 * values['parse_rate']:.0f} %")
    if values["excluded"]:
        facts.append(f"{values['excluded']} excluded")
    if values["groups_without_signal"]:
        facts.append(f"{values['groups_without_signal']} groups without signal")
    facts.append(f"{values['completion_length']:.0f} tokens each")
    facts.append(f"generate {values['seconds_generate']:.1f} s, train {values['seconds_train']:.1f} s")
    if "seconds_behind" in values:
        facts.append(f"{values['seconds_behind']:.1f} s of generating behind it")
    return "  ".join(facts)


def _tokens(rollout: Rollout) -> int:
    """Tokens that the trainer reads: prompts and completions of all that are included."""
    return sum(one.tokens for one in rollout.included)
