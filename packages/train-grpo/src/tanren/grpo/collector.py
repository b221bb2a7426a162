"""Generates and judges the completions of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tanren.common.completions import Completion, Sampling
from tanren.grpo.advantages import advantages_of, has_spread
from tanren.grpo.config import GrpoConfig
from tanren.grpo.engine import Engine
from tanren.grpo.prompt_order import PromptOrder
from tanren.grpo.prompts import Prompt, difficulties_of
from tanren.grpo.rewards import Rewards
from tanren.grpo.rollout import Rated, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Collector:
    """Draws prompts, has them answered, and judges the answers."""

    def __init__(
        self,
        config: GrpoConfig,
        prompts: Sequence[Prompt],
        engine: Engine,
        sampling: Sampling,
        rewards: Rewards,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """Begin with the first prompt."""
        self._config, self._prompts, self._engine, self._sampling = config, prompts, engine, sampling
        self._rewards, self._tokenizer = rewards, tokenizer
        self.order = PromptOrder(len(prompts), config.seed, difficulties_of(prompts, config.data.curriculum))
        self._seconds: dict[str, float] = {}

    def collect(self, model: Any) -> Rollout:
        """Return the completions of one step by the weights that `model` has now."""
        handed_over = self.hand_over(model)
        rollout = self.gather()
        return replace(rollout, seconds={**rollout.seconds, "sync": rollout.seconds["sync"] + handed_over})

    def hand_over(self, model: Any) -> float:
        """Wake the engine and give it the weights of `model`; return the seconds that it took."""
        begun = time.perf_counter()
        self._engine.wake()
        self._engine.sync(model)
        return time.perf_counter() - begun

    def gather(self) -> Rollout:
        """Return the completions of one step by the weights that the engine has, and let it sleep.

        Groups without spread are replaced by those of further prompts, as often as rollout.refills says.
        """
        self._seconds = dict.fromkeys(("sync", "generate", "reward"), 0.0)
        rollout = self._config.rollout
        before = self.order.drawn
        chosen = self.order.take(rollout.prompts_per_step)
        groups = self._answer(chosen)
        for _ in range(rollout.refills):
            flat = [place for place, group in enumerate(groups) if not has_spread([one.reward for one in group])]
            flat = flat[: len(self._prompts) - len(chosen)]  # a step takes no prompt twice
            if not flat:
                break
            further = self.order.take(len(flat), besides=chosen)
            for place, group in zip(flat, self._answer(further), strict=True):
                groups[place] = group
            chosen += further
        with self._timed("sync"):
            self._engine.sleep()
        return self._rollout(groups, self.order.drawn - before)

    def kept(self, rollout: Rollout) -> dict[str, Any]:
        """Return what a checkpoint keeps of completions that nothing was learned from yet; `again` takes it up."""
        numbers = {prompt.row.id: number for number, prompt in enumerate(self._prompts)}
        n = self._config.rollout.completions_per_prompt
        groups = [rollout.completions[first : first + n] for first in range(0, len(rollout.completions), n)]
        return {
            "drawn": rollout.drawn,
            "prompts": [numbers[group[0].prompt.row.id] for group in groups],
            "completions": [[asdict(one.completion) for one in group] for group in groups],
        }

    def again(self, kept: Mapping[str, Any]) -> Rollout:
        """Return the completions of a checkpoint, judged again."""
        self._seconds = dict.fromkeys(("sync", "generate", "reward"), 0.0)
        prompts = [self._prompts[number] for number in kept["prompts"]]
        answered = [[Completion(**one) for one in group] for group in kept["completions"]]
        return self._rollout(self._rate(prompts, answered), kept["drawn"])

    def _rollout(self, groups: Sequence[Sequence[Rated]], drawn: int) -> Rollout:
        """Give each completion its group and its advantage."""
        found = advantages_of([[one.reward for one in group] for group in groups], self._config.loss.scale)
        completions = [
            replace(one, group=number, advantage=advantage)
            for number, (group, values) in enumerate(zip(groups, found.values, strict=True))
            for one, advantage in zip(group, values, strict=True)
        ]
        return Rollout(completions, found, drawn, dict(self._seconds))

    def _answer(self, chosen: Sequence[int]) -> list[list[Rated]]:
        """Return the completions of prompts with their rewards, group by group, without advantages."""
        n, prompts = self._config.rollout.completions_per_prompt, [self._prompts[number] for number in chosen]
        with self._timed("generate"):
            answered = self._engine.generate([prompt.token_ids for prompt in prompts], n, self._sampling)
        return self._rate(prompts, answered)

    def _rate(self, prompts: Sequence[Prompt], answered: Sequence[Sequence[Completion]]) -> list[list[Rated]]:
        """Return the completions of prompts with their rewards, group by group, without advantages."""
        n = self._config.rollout.completions_per_prompt
        with self._timed("reward"):
            pairs = [(prompt, one) for prompt, group in zip(prompts, answered, strict=True) for one in group]
            texts = [
                str(
                    self._tokenizer.decode(
                        list(one.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
                    )
                )
                for _, one in pairs
            ]
            scored = self._rewards(
                texts,
                [prompt.row for prompt, _ in pairs],
                truncated=[one.finish_reason == "length" for _, one in pairs],
                tokens=[len(one.token_ids) for _, one in pairs],
            )
        rated = [
            Rated(
                prompt=prompt,
                completion=one,
                text=text,
                judged=scored.judged[place],
                columns={name: values[place] for name, values in scored.columns.items()},
                reward=scored.total[place],
                excluded_why=scored.excluded_why[place],
                group=0,
                advantage=None,
            )
            for place, ((prompt, one), text) in enumerate(zip(pairs, texts, strict=True))
        ]
        return [rated[first : first + n] for first in range(0, len(rated), n)]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - begun
