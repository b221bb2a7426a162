"""Rewards of completions: each by its own rule, added by weight, with the completions that none can be given to left out.

A completion has a total where every reward with a weight gave a number; where one gave None, the completion is excluded:
it has no part in its group's baseline nor in the loss. It is never a zero. So of several rewards the strictest decides.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from tanren.common.errors import UserError
from tanren.common.task_contract import Row, Verdict
from tanren.common.task_packs import TaskPack
from tanren.common.values import advantage, best_actions, boltzmann, read_values, values_of
from tanren.grpo.reward_process.protocol import PARSE, Setup
from tanren.grpo.rewards._asking import Call, ask
from tanren.grpo.rewards._settings import CHILD_KINDS, VALUE_KINDS, RewardConfig, check_rewards
from tanren.grpo.rewards._worker import Worker

TRUNCATED = "truncated"
NOT_SCORABLE = "not scorable"
SHOWN = 80  # characters of a completion in a message
Column = tuple[list[float | None], list[str]]
"""Of each completion: the reward, and why there is none ("" where there is one)."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the parser said of a completion."""

    verdict: Verdict
    action: int | None
    """What was parsed, where that is a whole number."""
    error: str
    failed: bool = False
    """The parser itself failed: nothing is known of the completion."""

    @property
    def valid(self) -> bool:
        """It parses."""
        return self.verdict in (Verdict.WRONG, Verdict.CORRECT, Verdict.UNCOMPARED)


@dataclass(frozen=True)
class Scored:
    """The rewards of completions, in their order."""

    total: list[float | None]
    """None: excluded from its group's baseline and from the loss."""
    columns: dict[str, list[float | None]]
    """Each reward by its name, before its weight; None where it gave none or was not asked."""
    excluded_why: list[str | None]
    """In words, for those without a total; it begins with `truncated` or with the reward's name."""
    judged: list[Judged | None]
    """What the parser said; None where no reward and no task pack has one."""


class Rewards:
    """The rewards of a recipe; use it as a context, or `close` it: it has a process of its own for the user's code.

    That process is started once, with everything loaded. What the code prints goes to `log` (standard error without one). It
    sees the completions as the engine decoded them; none that was truncated, unless `truncated` is "score".
    """

    def __init__(
        self,
        settings: Sequence[RewardConfig],
        pack: TaskPack | None,
        *,
        truncated: Literal["exclude", "score"] | float = "exclude",
        log: Path | None = None,
    ) -> None:
        """Load everything. `truncated`: completions that were cut off are excluded, or scored as they are, or get this total.

        Raises UserError for settings that cannot work, a value file with a fault, and code that cannot be loaded.
        """
        check_rewards(list(settings), has_pack=pack is not None)
        self.settings = tuple(settings)
        self.truncated = truncated
        self.excluded: Counter[str] = Counter()
        """How many completions were excluded so far, by `truncated` or the name of the first reward that gave none."""
        self._values = {one.column: _values_by_id(one) for one in self.settings if one.file is not None}
        self._parses = pack is not None or any(one.kind in VALUE_KINDS for one in self.settings)
        child = [one for one in self.settings if one.kind in CHILD_KINDS]
        self._parse = Call(
            PARSE,
            "parse",
            max((one.timeout_s for one in child), default=RewardConfig().timeout_s),
            stop=any(one.on_error == "stop" for one in child) or not child,
        )
        setup = Setup(
            None if pack is None else (str(pack.folder), pack.options.model_dump()),
            {one.column: one.function or "" for one in child},
        )
        self._worker = Worker(setup, log)
        if self._parses or child:
            self._worker.start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self.close()

    def close(self) -> None:
        """End the process for the user's code."""
        self._worker.end()

    def __call__(
        self,
        completions: Sequence[str],
        rows: Sequence[Row],
        *,
        truncated: Sequence[bool] = (),
        tokens: Sequence[int] = (),
    ) -> Scored:
        """Score completions, each of the row at the same place; `truncated` and `tokens` (its length) as the engine says.

        Raises UserError, naming reward, row and completion, where a reward with `on_error = "stop"` fails; within twice its
        `timeout_s`, and the time that its code takes to load again.
        """
        assert len(completions) == len(rows), "one row for each completion"
        left_out = [cut and self.truncated != "score" for cut in truncated] or [False] * len(rows)
        whole = [index for index, left in enumerate(left_out) if not left]
        judged: list[Judged | None] = self._judge(completions, rows) if self._parses else [None] * len(rows)
        columns: dict[str, list[float | None]] = {}
        whys: list[str | None] = [TRUNCATED if left else None for left in left_out]
        totals = [[0.0] for _ in rows]
        for one in self.settings:
            values, reasons = self._column(one, whole, completions, rows, judged, tokens)
            columns[one.column] = values
            for index in whole if one.weight else ():
                value = values[index]
                if value is not None:
                    totals[index].append(one.weight * value)
                elif whys[index] is None:
                    whys[index] = f"{one.column}: {reasons[index]}"
        total = [math.fsum(parts) if why is None else None for parts, why in zip(totals, whys, strict=True)]
        if not isinstance(self.truncated, str):
            total = [self.truncated if why == TRUNCATED else value for value, why in zip(total, whys, strict=True)]
            whys = [None if why == TRUNCATED else why for why in whys]
        self.excluded.update(why.partition(":")[0] for why in whys if why is not None)
        return Scored(total, columns, whys, judged)

    def _column(
        self,
        one: RewardConfig,
        whole: Sequence[int],
        completions: Sequence[str],
        rows: Sequence[Row],
        judged: Sequence[Judged | None],
        tokens: Sequence[int],
    ) -> Column:
        values: list[float | None] = [None] * len(rows)
        whys = [NOT_SCORABLE] * len(rows)
        asked = []
        for index in whole:
            said = judged[index]
            if said is not None and said.failed and one.needs_parsing:
                whys[index] = said.error
            elif one.invalid_penalty is not None and said is not None and not said.valid:
                values[index] = one.invalid_penalty
            elif one.kind in CHILD_KINDS:
                asked.append(index)
            elif one.kind == "length":
                values[index] = _length(one, tokens[index])
            else:
                assert said is not None, "checked by check_rewards"
                values[index], whys[index] = self._by_parsing(one, said, rows[index])
        call = Call(one.column, "reward", one.timeout_s, one.on_error == "stop")
        if asked:
            answers = ask(self._worker, call, [completions[index] for index in asked], [rows[index] for index in asked])
            for index, answer in zip(asked, answers, strict=True):
                if answer.fault and call.stop:
                    raise UserError(
                        self._told(f"the reward {one.column!r}", answer.fault, completions[index], rows[index])
                    )
                values[index], whys[index] = answer.result, answer.fault or NOT_SCORABLE
        return values, whys

    def _by_parsing(self, one: RewardConfig, said: Judged, row: Row) -> tuple[float | None, str]:
        if one.kind == "parse":
            return float(said.valid), ""
        if not said.valid:
            return None, said.error or said.verdict.value
        values = self._values_of(one, row)
        if said.action is None or not 0 <= said.action < len(values):
            raise UserError(
                f"the reward {one.column!r} at row {row.id}: the task pack's parse gave {said.action}, expected an action "
                f"from 0 to {len(values) - 1}"
            )
        if one.kind == "accuracy":
            return float(said.action in best_actions(values)), ""
        rewards = boltzmann(values, one.tau) if one.kind == "boltzmann" else advantage(values)
        return rewards[said.action], ""

    def _values_of(self, one: RewardConfig, row: Row) -> Sequence[float]:
        if one.file is None:
            return values_of(row)
        found = self._values[one.column].get(row.id)
        if found is None:
            raise UserError(
                f"the reward {one.column!r}: {one.file} has no row {row.id!r}; expected a column `id` with the names of the "
                "rows that are trained on"
            )
        return found

    def _judge(self, completions: Sequence[str], rows: Sequence[Row]) -> list[Judged | None]:
        judged: list[Judged | None] = []
        for index, answer in enumerate(ask(self._worker, self._parse, completions, rows)):
            if answer.fault and self._parse.stop:
                raise UserError(self._told("the parser", answer.fault, completions[index], rows[index]))
            if answer.result is None:
                judged.append(Judged(Verdict.UNPARSABLE, None, f"the parser {answer.fault}", failed=True))
                continue
            verdict, action, error = answer.result
            judged.append(Judged(Verdict(verdict), action, error))
        return judged

    def _told(self, what: str, fault: str, completion: str, row: Row) -> str:
        shown = json.dumps(completion[:SHOWN], ensure_ascii=False) + ("…" if len(completion) > SHOWN else "")
        return (
            f"{what} {fault}, at row {row.id}, completion {shown}; correct the code, or leave such completions out with "
            f'on_error = "exclude" (what it printed is in {self._worker.log_name})'
        )


def _values_by_id(one: RewardConfig) -> dict[str, tuple[float, ...]]:
    assert one.file is not None
    return {row.id: row.values for row in read_values(one.file, one.prefix).rows}


def _length(one: RewardConfig, tokens: int) -> float:
    """Return 0 up to free_tokens, falling linearly to -1 at limit_tokens (arXiv:2503.14476, equation 13)."""
    assert one.free_tokens is not None
    assert one.limit_tokens is not None
    return min(0.0, max(-1.0, (one.free_tokens - tokens) / (one.limit_tokens - one.free_tokens)))
